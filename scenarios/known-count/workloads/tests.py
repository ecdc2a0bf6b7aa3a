"""A test suite of the usual kind: temporary files, subprocesses, files by every way Python has."""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest


class Files(unittest.TestCase):
    def setUp(self):
        self.place = pathlib.Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.place)

    def test_text(self):
        (self.place / "text").write_text("text")
        (self.place / "text").rename(self.place / "renamed")
        os.replace(self.place / "renamed", self.place / "replaced")
        (self.place / "replaced").chmod(0o400)
        self.assertRaises(FileNotFoundError, (self.place / "text").unlink)
        self.assertRaises(FileExistsError, os.mkdir, self.place)

    def test_exclusive(self):
        with open(self.place / "x", "x") as file:
            os.fchmod(file.fileno(), 0o600)
        self.assertRaises(FileExistsError, open, self.place / "x", "x")

    def test_directory_descriptor(self):
        at = os.open(self.place, os.O_RDONLY)
        os.mkdir("d", dir_fd=at)
        os.close(os.open("d/f", os.O_CREAT | os.O_RDWR, dir_fd=at))
        os.rename("d/f", "g", src_dir_fd=at, dst_dir_fd=at)
        os.link("g", "h", src_dir_fd=at, dst_dir_fd=at)
        os.symlink("g", "s", dir_fd=at)
        os.chmod("g", 0o640, dir_fd=at)
        os.unlink("h", dir_fd=at)
        os.rmdir("d", dir_fd=at)
        os.close(at)

    def test_temporary(self):
        with tempfile.NamedTemporaryFile() as named, tempfile.TemporaryFile() as unnamed, tempfile.SpooledTemporaryFile() as _:
            named.write(b"1")
            unnamed.write(b"2")

    def test_copies(self):
        shutil.copy2("/etc/hostname", self.place / "hostname")
        shutil.copytree(self.place, self.place.parent / (self.place.name + "-copy"))
        shutil.move(self.place / "hostname", self.place / "moved")
        shutil.rmtree(self.place.parent / (self.place.name + "-copy"))

    def test_working_directory(self):
        before = os.getcwd()
        os.chdir(self.place)
        pathlib.Path("here").touch()
        os.mkdir("below")
        os.chdir("below")
        os.rename("../here", "there")
        os.unlink("there")
        os.chdir(before)

    def test_subprocess(self):
        self.assertEqual(subprocess.run(["/bin/echo", "1"], capture_output=True).stdout, b"1\n")
        self.assertEqual(subprocess.run("exit 3", shell=True).returncode, 3)
        self.assertRaises(FileNotFoundError, subprocess.run, ["/nonexistent/program"])
        code = "import os; os.close(os.open('inner', os.O_CREAT | os.O_WRONLY)); os.remove('inner')"
        subprocess.run([sys.executable, "-c", code], check=True, cwd=self.place)
        os.waitpid(os.spawnv(os.P_NOWAIT, "/bin/true", ["true"]), 0)
        os.system("echo system > %s/system" % self.place)


if __name__ == "__main__":
    unittest.main()
