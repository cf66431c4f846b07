"""Runs AWS CLI commands one after the other in one process: to start Python anew for each takes longer than the command.

Each line of the input is a command's arguments as a JSON list; each line of the output is how it ended."""
import contextlib
import io
import json
import sys

from awscli.clidriver import create_clidriver

answers = sys.stdout
for line in sys.stdin:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = create_clidriver().main(json.loads(line))
        except SystemExit as end:
            status = end.code
    print(json.dumps({"status": status, "out": out.getvalue(), "err": err.getvalue()}), file=answers, flush=True)
