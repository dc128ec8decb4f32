"""Public reports of broken training, re-created small: which tools name the cause?"""
