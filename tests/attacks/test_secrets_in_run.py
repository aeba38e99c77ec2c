"""S5. Secrets of the environment: no file of a run has any."""

from __future__ import annotations

import shutil

SECRETS = {
    name: f"hunter2-{name.lower()}-f00d"
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "GITHUB_TOKEN", "DATABASE_PASSWORD", "MY_OWN")
}


def test_no_file_of_a_run_has_any(tmp_path, monkeypatch):
    from metaformer.evaluate import eval_command
    from metaformer.train import train_command

    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HTTPS_PROXY", "http://user:hunter2-proxy-f00d@localhost:9")
    recipe = shutil.copy("recipes/digits_frozen.yaml", tmp_path / "secret.yaml")
    encoder = "encoders.shared={use: transformer, dim: 32, depth: 1, num_heads: 2}"
    sets = ["steps=1", "batch_size=16", "controls=[]", "schedule.warmup=1", encoder, "engine={use: torch}"]
    train_command([tmp_path / "secret.yaml"], [*sets, f"output={tmp_path / 'runs'}"])
    assert recipe.exists()
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert {"resolved.yaml", "lock.json", "run.json", "status.json", "metrics.jsonl"} <= {path.name for path in files}
    for path in files:
        content = path.read_bytes()
        assert b"hunter2" not in content, path
        assert b"f00d" not in content, path
    eval_command(tmp_path / "runs/digits_frozen", [])
