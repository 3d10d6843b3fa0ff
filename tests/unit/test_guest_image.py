"""The role guest_image: what its hash depends on."""

import shutil
import subprocess
from pathlib import Path

import yaml
from programs import ROLES


def play(role: Path) -> dict:
    """Make a play that writes the hash of the image into the file `hash` of a role."""
    write = {"content": "{{ __guest_image_hash }}", "dest": str(role / "hash"), "mode": "0644"}
    return {
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars_files": [str(role / "defaults/main.yml"), str(role / "vars/main.yml")],
        "vars": {"role_path": str(role), "testbed_images_directory": "/images"},
        "tasks": [{"ansible.builtin.copy": write}],
    }


def test_the_hash_depends_on_files_and_recipe_and_not_on_the_umask(tmp_path):
    """One playbook for all cases, since the start of Ansible takes most of the time."""
    names = ("clone", "umask", "executable", "file", "recipe", "script")
    roles = {name: shutil.copytree(ROLES / "guest_image", tmp_path / name) for name in names}
    for name, role in roles.items():
        files = [path for path in (role / "files/rootfs").rglob("*") if path.is_file()]
        for path in files:
            executable = path.stat().st_mode & 0o100
            path.chmod((0o700 if executable else 0o600) if name == "umask" else 0o644 | executable)
        if name == "executable":
            files[0].chmod(files[0].stat().st_mode ^ 0o100)
        if name == "file":
            files[0].write_text("other\n")
        if name in {"recipe", "script"}:
            recipe = role / {"recipe": "tasks/build.yml", "script": "files/build.sh"}[name]
            recipe.write_text(recipe.read_text() + "# another recipe\n")
    book = tmp_path / "play.yml"
    book.write_text(yaml.safe_dump([play(role) for role in roles.values()]))
    done = subprocess.run(
        ["ansible-playbook", str(book)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    hashes = {name: (role / "hash").read_text() for name, role in roles.items()}

    assert hashes["umask"] == hashes["clone"]
    assert len({hashes[name] for name in names}) == 5, hashes
