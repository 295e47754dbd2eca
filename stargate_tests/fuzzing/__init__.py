"""Anything at all, sent to a real server, whose answers are judged by rules of our own.

A short sample of it is a test; ``make fuzz`` goes on for as long as it is told to.
"""
