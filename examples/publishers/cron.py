"""What cron starts: send one message, and be silent unless it failed.

*/5 * * * *  /srv/shop/env/bin/python /srv/shop/cron.py /srv/shop/production.ini /prices
"""

import os
import sys

import stargate


def main(target, path):
    # The backplane's part of an application's settings; nothing of the application is imported.
    with stargate.connect(target) as publisher:
        publisher.send_json(path, {"load": os.getloadavg()[0]})


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except stargate.BackplaneError as error:
        sys.exit(f"cron.py: {error}")  # cron mails it.
