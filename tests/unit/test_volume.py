"""NetworkVolume: its fields and checks, and the directory that it is when embedded."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from runpod_flash.engines.local.volumes import misplaced, volume_of
from runpod_flash.errors import ConfigurationError
from runpod_flash.hardware import DataCenter
from runpod_flash.spec import Build, EndpointSpec, Entry, Placement, VolumeMount
from runpod_flash.volume import NetworkVolume
from runpod_flash.volume_places import directory, usage_bytes

if TYPE_CHECKING:
    from pathlib import Path

UNSAFE_NAMES = ["..", ".", "a/b", "/etc", "../x", "a\\b", "a\0b", "a\nb", "x" * 256]


@pytest.fixture(autouse=True)
def data_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Volumes of this test lie below here, on Linux as on macOS."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path


def test_a_volume_by_name_has_the_documented_defaults() -> None:
    volume = NetworkVolume(name="models")
    assert (volume.name, volume.id, volume.size) == ("models", None, 100)
    assert volume.dataCenterId is DataCenter.EU_RO_1
    assert volume.datacenter is DataCenter.EU_RO_1
    assert not volume.is_created


def test_a_volume_by_id_counts_as_created_and_has_no_name() -> None:
    volume = NetworkVolume(id="agv6w2qcg7")
    assert volume.name is None
    assert volume.is_created
    assert volume.mount_name == "agv6w2qcg7"


@pytest.mark.parametrize("given", [DataCenter.US_KS_2, "US-KS-2"])
@pytest.mark.parametrize("field", ["datacenter", "dataCenterId"])
def test_either_spelling_of_the_data_center_takes_a_member_or_its_exact_id(
    field: str, given: object
) -> None:
    options: dict[str, Any] = {field: given}
    volume = NetworkVolume(name="models", **options)
    assert volume.dataCenterId is DataCenter.US_KS_2


def test_the_camel_case_data_center_wins_over_the_other_spelling() -> None:
    volume = NetworkVolume(name="models", datacenter="US-KS-2", dataCenterId="US-CA-2")
    assert volume.dataCenterId is DataCenter.US_CA_2


@pytest.mark.parametrize("wrong", ["us-ca-2", "US_CA_2", "US-CA-3"])
def test_a_data_center_that_is_not_an_exact_id_is_refused_with_the_near_one(wrong: str) -> None:
    with pytest.raises(ConfigurationError, match=r"Did you mean .*'US-CA-2'"):
        NetworkVolume(name="models", datacenter=wrong)


@pytest.mark.parametrize("wrong", ["", 3, ["US-CA-2"]])
def test_a_data_center_of_another_type_or_blank_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="is not a DataCenter"):
        NetworkVolume(name="models", dataCenterId=wrong)


@pytest.mark.parametrize("size", [10, 100, 4096])
def test_sizes_from_10_to_4096_gb_are_taken(size: int) -> None:
    assert NetworkVolume(name="models", size=size).size == size


@pytest.mark.parametrize("size", [9, 4097, 0, -10])
def test_a_size_out_of_bounds_is_refused_with_the_bounds(size: int) -> None:
    with pytest.raises(ConfigurationError, match=f"must be 10 to 4096 GB, not {size}"):
        NetworkVolume(name="models", size=size)


@pytest.mark.parametrize("size", ["100", 50.5, None, True])
def test_a_size_that_is_no_whole_number_is_refused(size: Any) -> None:
    with pytest.raises(ConfigurationError, match="must be a whole number of GB"):
        NetworkVolume(name="models", size=size)


def test_neither_name_nor_id_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="either 'name' or 'id' must be provided"):
        NetworkVolume(size=20)


@pytest.mark.parametrize("field", ["name", "id"])
@pytest.mark.parametrize("wrong", ["", "  ", "\t", 7])
def test_a_blank_name_or_id_is_refused(field: str, wrong: object) -> None:
    options: dict[str, Any] = {field: wrong}
    with pytest.raises(ConfigurationError, match=rf"NetworkVolume\.{field} must be a text"):
        NetworkVolume(**options)


@pytest.mark.parametrize("wrong", UNSAFE_NAMES)
def test_a_name_that_could_leave_its_directory_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot name a directory"):
        NetworkVolume(name=wrong)
    with pytest.raises(ConfigurationError, match="cannot name a directory"):
        NetworkVolume(id=wrong)
    with pytest.raises(ConfigurationError, match="cannot name a directory"):
        directory(wrong, DataCenter.EU_RO_1)


def test_a_local_id_cannot_lead_out_of_the_volumes_directory() -> None:
    with pytest.raises(ConfigurationError, match="cannot name a directory"):
        NetworkVolume(id="local:EU-RO-1:..")
    with pytest.raises(ConfigurationError, match="is not a DataCenter"):
        NetworkVolume(id="local:..:models")


@pytest.mark.parametrize("name", ["models", "a..b", ".cache", "Модели", "two words", "x" * 255])
def test_other_names_are_taken_as_they_are(name: str) -> None:
    assert directory(name, "EU-RO-1").name == name


def test_an_unknown_field_is_refused_with_the_near_one() -> None:
    options: dict[str, Any] = {"name": "models", "data_center_id": "EU-RO-1"}
    with pytest.raises(ConfigurationError, match=r"'data_center_id'\. Did you mean 'dataCenterId'"):
        NetworkVolume(**options)


def test_resource_ids_are_those_of_name_and_place_and_stay_when_the_id_comes() -> None:
    volume = NetworkVolume(name="models")
    before = volume.resource_id
    asyncio.run(volume.deploy())
    assert volume.resource_id == before == NetworkVolume(name="models", size=20).resource_id
    others = [
        NetworkVolume(name="models", datacenter="US-KS-2"),
        NetworkVolume(name="data"),
        NetworkVolume(id="models"),
    ]
    assert len({before, *(other.resource_id for other in others)}) == 4


def test_equal_declarations_are_equal_and_the_repr_shows_every_field() -> None:
    assert NetworkVolume(name="a") == NetworkVolume(name="a", dataCenterId="EU-RO-1")
    assert NetworkVolume(name="a") != NetworkVolume(name="a", size=20)
    assert NetworkVolume(name="a") != "a"
    volume = NetworkVolume(name="a", size=20, datacenter="US-CA-2")
    assert repr(volume) == "NetworkVolume(name='a', id=None, size=20, dataCenterId='US-CA-2')"


def test_str_is_the_class_and_the_id() -> None:
    assert str(NetworkVolume(id="agv6w2qcg7")) == "NetworkVolume:agv6w2qcg7"


def test_the_directory_is_below_the_users_data_by_data_center_and_name(data_home: Path) -> None:
    path = directory("models", DataCenter.US_KS_2)
    assert path.parts[-3:] == ("volumes", "US-KS-2", "models")
    assert data_home in path.parents
    assert directory("models", "US-KS-2") == path
    assert not path.exists()


def test_the_same_name_in_two_data_centers_is_two_directories() -> None:
    assert directory("models", "US-KS-2") != directory("models", "US-CA-2")


def test_making_a_volume_object_writes_nothing(data_home: Path) -> None:
    NetworkVolume(name="models")
    assert list(data_home.iterdir()) == []


def test_deploy_creates_the_directory_sets_the_id_and_keeps_the_data_when_repeated() -> None:
    async def scenario() -> None:
        volume = NetworkVolume(name="models")
        assert not await volume.is_deployed()
        assert await volume.deploy() is volume
        assert volume.is_created
        assert await volume.is_deployed()
        given = volume.id
        (volume.directory / "weights").write_text("w")
        await volume.deploy()
        assert volume.id == given
        assert (volume.directory / "weights").read_text() == "w"

    asyncio.run(scenario())


def test_two_objects_of_the_same_name_and_place_get_the_same_id_and_directory() -> None:
    first, second = NetworkVolume(name="models"), NetworkVolume(name="models", size=20)
    asyncio.run(first.deploy())
    asyncio.run(second.deploy())
    assert first.id == second.id
    assert first.directory == second.directory


def test_the_id_that_deploy_gave_attaches_to_the_same_volume() -> None:
    volume = NetworkVolume(name="models", datacenter=DataCenter.US_KS_2)
    asyncio.run(volume.deploy())
    attached = NetworkVolume(id=volume.id)
    assert attached.directory == volume.directory
    assert attached == volume


def test_a_foreign_id_is_kept_and_gets_a_directory_of_its_own() -> None:
    volume = NetworkVolume(id="agv6w2qcg7")
    asyncio.run(volume.deploy())
    assert volume.id == "agv6w2qcg7"
    assert volume.directory == directory("agv6w2qcg7", DataCenter.EU_RO_1)
    assert volume.directory.is_dir()


def test_a_volume_whose_directory_was_removed_is_not_deployed() -> None:
    volume = NetworkVolume(name="models")
    asyncio.run(volume.deploy())
    volume.directory.rmdir()
    assert volume.is_created
    assert not asyncio.run(volume.is_deployed())


def test_a_directory_that_cannot_be_made_is_named_in_one_sentence() -> None:
    volume = NetworkVolume(name="models")
    volume.directory.parent.mkdir(parents=True)
    volume.directory.write_text("a file is in the way")
    with pytest.raises(ConfigurationError, match=r"'models' cannot be created at .*: File exists"):
        asyncio.run(volume.deploy())
    assert volume.id is None


def test_undeploy_is_refused_and_keeps_the_data() -> None:
    volume = NetworkVolume(name="models")
    asyncio.run(volume.deploy())
    with pytest.raises(NotImplementedError, match="deletes no volumes"):
        asyncio.run(volume.undeploy())
    assert volume.directory.is_dir()


def test_a_url_needs_an_id() -> None:
    with pytest.raises(ValueError, match="'models' has no id"):
        _ = NetworkVolume(name="models").url


def test_the_url_is_the_directory_of_a_local_volume_and_the_storage_page_of_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    volume = NetworkVolume(name="models")
    asyncio.run(volume.deploy())
    assert volume.url == volume.directory.as_uri()
    monkeypatch.delenv("RUNPOD_CONSOLE_URL", raising=False)
    hosted = NetworkVolume(id="agv6w2qcg7")
    assert hosted.url == "https://console.runpod.io/user/storage/agv6w2qcg7"
    monkeypatch.setenv("RUNPOD_CONSOLE_URL", "https://console.example")
    assert hosted.url == "https://console.example/user/storage/agv6w2qcg7"


def test_usage_adds_up_the_files_of_the_whole_tree(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "one").write_bytes(b"x" * 1000)
    (tmp_path / "deep" / "er" / "two").write_bytes(b"x" * 234)
    assert usage_bytes(tmp_path) == 1234


def test_usage_counts_a_file_once_and_does_not_follow_links(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (outside / "big").write_bytes(b"x" * 100_000)
    (inside / "file").write_bytes(b"x" * 1000)
    (inside / "same").hardlink_to(inside / "file")
    (inside / "folder").symlink_to(outside)
    (inside / "link").symlink_to(outside / "big")
    assert 1000 <= usage_bytes(inside) < 2000


def test_usage_of_a_volume_that_is_not_there_is_nothing(tmp_path: Path) -> None:
    assert usage_bytes(tmp_path / "absent") == 0


# The node's data center

EU, US = VolumeMount("weights", "EU-RO-1", 10), VolumeMount("weights", "US-CA-2", 10)


def placed(*volumes: VolumeMount, datacenters: tuple[str, ...] = ()) -> EndpointSpec:
    placement = Placement(volumes=volumes, datacenters=datacenters)
    return EndpointSpec("e", Entry("m", "f"), Build("code"), placement)


def test_a_worker_sees_the_volume_of_its_nodes_data_center() -> None:
    spec = placed(EU, US, datacenters=("EU-RO-1", "US-CA-2"))
    assert volume_of(spec, "US-CA-2") == US
    assert volume_of(spec) == EU


def test_a_node_elsewhere_than_the_endpoint_asks_for_cannot_serve_it() -> None:
    text = misplaced(placed(datacenters=("EU-RO-1",)), "US-CA-2")
    assert text == "it asks for EU-RO-1, and this machine is in US-CA-2"
    assert misplaced(placed(datacenters=("EU-RO-1", "US-CA-2")), "US-CA-2") == ""
    assert misplaced(placed(datacenters=("EU-RO-1",)), "") == ""


def test_a_node_without_any_of_the_volumes_cannot_serve_their_endpoint() -> None:
    text = misplaced(placed(EU), "US-CA-2")
    assert text == "its volumes are in EU-RO-1, and this machine is in US-CA-2"
    assert misplaced(placed(EU, US), "US-CA-2") == ""
