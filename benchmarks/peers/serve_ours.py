"""`tfsoftmax serve`, one worker, with gRPC beside HTTP."""

import json
import sys

from tfsoftmax import cli

case = json.loads(sys.argv[1])
sys.argv = ["tfsoftmax", "serve", case["export"], "--port", str(case["port"]), "--grpc-port", str(case["grpc_port"])]
cli.main()
