"""Each package logs to its own logger, and nothing is shown unless somebody listens."""

import logging

import shortlist
from shortlist.data.synthetic import planted_world


def test_reading_training_building_and_publishing_are_told_to_who_listens(tmp_path, caplog, capfd):
    world = planted_world(users=60, items=40, events=600, seed=3)

    def work(place):
        data = shortlist.Dataset.load(world.interactions, schema=shortlist.Schema(time="timestamp"))
        split = data.split("leave-last-out")
        tower = shortlist.TwoTower(dim=4, epochs=1, batch_size=64).fit(split)
        shortlist.ItemCF().fit(split)
        return shortlist.save(tower, place)

    work(tmp_path / "silent")
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    with caplog.at_level(logging.INFO, "shortlist"):
        identity = work(tmp_path / "told")
    told = [(record.name, record.getMessage()) for record in caplog.records]
    rooms = ("bundle", "channels", "data", "training")
    assert {name for name, _ in told} == {f"shortlist.{room}" for room in rooms}
    said = dict(told)
    assert said["shortlist.training"].startswith("epoch 1: loss ")
    assert said["shortlist.bundle"] == f"published {identity[:12]} as {tmp_path / 'told'}"
    assert "fitting ItemCF on" in said["shortlist.channels"]
