"""What can be set: the tables of the application and the server, and how their text is read.

Nothing here knows what a setting is for.
"""
