"""On a Spark cluster TorchDistributor starts the processes of a training: `make spark`."""

import shutil
from importlib.util import find_spec
from typing import Any

import pytest

from shortlist.bundle.bundle import load
from training import several

pytestmark = pytest.mark.skipif(
    find_spec("pyspark") is None or shutil.which("java") is None,
    reason="needs pyspark and Java: make spark",
)


@pytest.mark.filterwarnings("ignore")  # of pyspark and its older pandas
def test_spark_starts_the_processes_of_a_training(tmp_path, monkeypatch):
    monkeypatch.delenv("SHORTLIST_DATA", raising=False)  # the log of the recipe lies beside it
    from pyspark.ml.torch.distributor import TorchDistributor
    from pyspark.sql import SparkSession

    def train(recipe: str, out: str) -> Any:
        import shortlist

        return shortlist.train(recipe, out).bundle

    (tmp_path / "recipe.toml").write_text(several.RECIPE)
    several.planted().interactions.write_csv(tmp_path / "log.csv")
    builder = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    session = builder.getOrCreate()
    try:
        started = TorchDistributor(num_processes=2, local_mode=True, use_gpu=False)
        found = started.run(train, str(tmp_path / "recipe.toml"), str(tmp_path / "bundle"))
    finally:
        session.stop()
    assert found == load(tmp_path / "bundle").id
