import json

import pytest


@pytest.fixture
def write(tmp_path):
    def write(*texts, name="a.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        return str(path)

    return write
