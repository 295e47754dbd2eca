"""What carries messages from the process that sends to the processes that listen."""
