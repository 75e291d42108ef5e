"""What all tests share: quiet back ends and the place of the research data."""

import os
import pathlib

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_folder() -> pathlib.Path:
    """Faces and LFW, which no one may redistribute; tests of them skip where they are missing."""
    folder = pathlib.Path(os.environ.get("SPHEREKERAS_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "lfw-deepfunneled.zip").is_file():
        pytest.skip(f"the research data is not at {folder}; set SPHEREKERAS_DATA to its folder")
    return folder
