"""No token of Flower is among the arguments of a process."""

import json
import subprocess
import sys

import pytest

from federation.flower.task_launcher import start

CODE = """
import argparse, json, sys
from flwr.common.args import add_args_flwr_app_common, try_obtain_flwr_app_token

parser = argparse.ArgumentParser()
add_args_flwr_app_common(parser)
token = try_obtain_flwr_app_token(parser.parse_args())
print(json.dumps([token, open("/proc/self/cmdline").read() if sys.platform == "linux" else " ".join(sys.argv)]))
"""


def test_a_token_arrives_and_is_in_no_list_of_processes() -> None:
    command = [sys.executable, "-c", CODE, "--token", "zebra", "--insecure"]
    with start(command, stdout=subprocess.PIPE) as process:
        out, _ = process.communicate(timeout=60)
    token, arguments = json.loads(out)
    assert token == "zebra" and "zebra" not in arguments and "--insecure" in arguments


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what Flower imports
def test_flower_still_starts_its_processes_so() -> None:
    """The launcher replaces `subprocess` in this module, and `--token` in the command."""
    import inspect

    from flwr.supercore.superexec.executor import subprocess_executor

    assert vars(subprocess_executor)["subprocess"] is subprocess
    source = inspect.getsource(subprocess_executor)
    assert '"--token",\n            spec.token,' in source
    assert {line.split("subprocess.")[1].split("(")[0].rstrip(",") for line in source.splitlines()
            if " subprocess." in line or "=subprocess." in line} == {"Popen", "DEVNULL"}  # fmt: skip
