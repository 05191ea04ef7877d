"""`tfsoftmax serve`, one worker."""

import json
import sys

from tfsoftmax import cli

case = json.loads(sys.argv[1])
sys.argv = ["tfsoftmax", "serve", case["export"], "--port", str(case["port"])]
cli.main()
