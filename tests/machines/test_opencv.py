"""OpenCV imports on a server without libGL, although gluoncv asks for the desktop build."""

import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest


def test_the_build_in_use_needs_no_libgl():
    library = next(Path(cv2.__file__).parent.glob("*.so"))
    needed = subprocess.run(["ldd", str(library)], capture_output=True, text=True, check=True).stdout
    assert "libGL" not in needed and "not found" not in needed


def test_it_imports_where_libgl_is_hidden():
    """In a mount namespace of its own, in which every libGL is an empty file."""
    found = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=False).stdout
    libraries = [line.split()[-1] for line in found.splitlines() if "libGL.so" in line]
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*namespace, "true"], check=False).returncode:
        pytest.skip("no user namespaces here to hide a library in")
    hide = "".join(f"mount --bind /dev/null {library} && " for library in libraries)
    code = "import segtrain, segtrain.data.files, cv2; print(cv2.__version__)"
    command = [*namespace, "sh", "-c", f'{hide} exec "{sys.executable}" -c "{code}"']
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
