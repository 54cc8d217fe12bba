import logging

# Test cases of the standard library run their loop in debug mode, which tells of every slow step of a busy machine.
logging.getLogger("asyncio").setLevel(logging.ERROR)
