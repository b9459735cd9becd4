"""`chain` and `swap`: from sample sent to prediction received, through processes and their sockets.

Nothing is imported here: the processes that are measured import `stations` and should carry nothing else.
"""
