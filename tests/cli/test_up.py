"""`herd up` as the gateway alone: no torch, a vendor's key in the environment, one line to change."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

CODE = "import sys; sys.modules['torch'] = None; import herd.cli; sys.exit(herd.cli.run(sys.argv[1:]))"


def test_with_a_vendors_key_and_without_torch_it_proxies(tmp_path: Path) -> None:
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HERD_")},
        "HERD_HOME": str(tmp_path), "OPENAI_API_KEY": "sk-a-secret-of-ours", "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
    }  # fmt: skip
    env.pop("ANTHROPIC_API_KEY", None)
    command = [sys.executable, "-c", CODE, "up", "--port", "0"]
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stderr
        said = [process.stdout.readline().rstrip("\n") for _ in range(5)]
        try:
            url = said[0].split()[-1]
            assert f'base_url="{url}/v1"' in said[1]
            assert said[2].split(maxsplit=1)[0] == "Proxies" and "openai" in said[2]
            assert "openherd[local]" in said[3] and said[4] == "Ctrl-C stops it."
            with urlopen(f"{url}/api/providers", timeout=60) as reply:
                text = reply.read().decode()
            assert {one["name"] for one in json.loads(text)["data"]} == {"local", "openai"}
        finally:
            process.send_signal(signal.SIGTERM)
            err = process.communicate(timeout=60)[1]
        assert process.returncode == 0 and "sk-a-secret" not in text + err + "".join(said)
