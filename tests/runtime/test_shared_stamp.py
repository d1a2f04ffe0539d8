"""A stamp is seen by other processes."""

import subprocess
import sys

from gtcrec.runtime.shared_stamp import SharedStamp


def test_another_process_renews_the_stamp(tmp_path):
    stamp = SharedStamp(tmp_path / "stamp")
    before = stamp.value
    program = "import sys; from gtcrec.runtime.shared_stamp import SharedStamp; SharedStamp(sys.argv[1]).renew()"
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "stamp")], check=True)
    assert stamp.value != before
    assert SharedStamp(tmp_path / "stamp").value == stamp.value
