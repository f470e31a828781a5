"""`cores prepare-data partworld`, through the real entry."""


def test_prepare_data_renders_and_prepares(cli, tmp_path):
    arguments = ("--images", 2, "--val-images", 0, "--test-images", 1, "--seed", 3, "--workers", 1)
    outcome = cli("prepare-data", "partworld", "--data-root", tmp_path, *arguments)
    assert outcome.code == 0
    assert "partworld" in outcome.stdout
    assert (tmp_path / "partworld" / "train.json").is_file()
    assert (tmp_path / "prepared" / "partworld" / "test.arrow").is_file()


def test_unknown_data_set(cli, tmp_path):
    outcome = cli("prepare-data", "imagenet", "--data-root", tmp_path)
    assert outcome.code == 1
    assert "imagenet" in outcome.stderr


def test_data_of_another_seed_is_not_overwritten(cli, tmp_path):
    arguments = ("--images", 1, "--val-images", 0, "--test-images", 0, "--workers", 1, "--data-root", tmp_path)
    assert cli("prepare-data", "partworld", "--seed", 1, *arguments).code == 0
    outcome = cli("prepare-data", "partworld", "--seed", 2, *arguments)
    assert outcome.code == 1
    assert "seed" in outcome.stderr
