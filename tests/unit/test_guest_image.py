"""The role guest_image: what its hash follows from."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from programs import ROLES


@pytest.fixture
def role(tmp_path):
    """Copy the role, with modes of a clone that was made with umask 022."""
    copy = shutil.copytree(ROLES / "guest_image", tmp_path / "guest_image")
    for path in copy.rglob("*"):
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    return copy


def image_hash(role: Path) -> str:
    """Let Ansible compute the name of the image."""
    play = {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars_files": [str(role / "defaults/main.yml"), str(role / "vars/main.yml")],
        "vars": {"role_path": str(role), "testbed_images_directory": "/images"},
        "tasks": [
            {
                "ansible.builtin.copy": {
                    "content": "{{ __guest_image_hash }}",
                    "dest": str(role / "hash"),
                    "mode": "0644",
                }
            }
        ],
    }
    book = role.parent / "play.yml"
    book.write_text(yaml.safe_dump([play]))
    done = subprocess.run(
        ["ansible-playbook", str(book)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return (role / "hash").read_text()


def test_the_hash_depends_on_files_and_recipe_and_not_on_the_umask(role):
    first = image_hash(role)
    files = [path for path in (role / "files/rootfs").rglob("*") if path.is_file()]
    for path in files:
        path.chmod(path.stat().st_mode & ~0o077)
    assert image_hash(role) == first, "another umask"
    files[0].chmod(files[0].stat().st_mode ^ 0o100)
    executable = image_hash(role)
    assert executable != first, "executable or not"
    files[0].write_text("other\n")
    other = image_hash(role)
    assert other != executable, "another file"
    recipe = role / "tasks/build.yml"
    recipe.write_text(recipe.read_text() + "# another recipe\n")
    assert image_hash(role) != other, "another recipe"
