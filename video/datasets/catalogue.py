"""Public video data sets: where they come from, what they hold, and how they are laid out for training.

None of them is downloaded by this program: most ask for an agreement. Facts that could not be checked say so.
"""

from dataclasses import dataclass

from fibo_robot.errors import FiboError, did_you_mean

NOT_VERIFIED = "not verified"


class UnknownDatasetError(FiboError):
    """There is no data set of this name in the catalogue."""


@dataclass(frozen=True)
class PublicDataset:
    """One data set.

    Attributes:
        name: how the command calls it.
        title: its own name, with the paper that introduces it.
        page: where it is obtained.
        clips, classes: how many.
        size: on disk.
        terms: licence, or what has to be agreed to.
        obtain: what to fetch, in a sentence.
        tree: the folder that is expected, one entry per line.
        experiment: the recipe to train with; `video_skills`, our smallest, where there is none for it.
        overrides: of `fibo train`, beside the experiment.
    """

    name: str
    title: str
    page: str
    clips: str
    classes: int
    size: str
    terms: str
    obtain: str
    tree: str
    experiment: str
    overrides: tuple[str, ...]

    @property
    def train_command(self) -> str:
        """A line that trains on it."""
        return " ".join([f"fibo train experiment={self.experiment}", *self.overrides])


_NTU_PAGE = "https://rose1.ntu.edu.sg/dataset/actionRecognition/"
_NTU_TERMS = "by request to the ROSE Lab, whose licence has to be agreed to"
_SMALLEST = "video_skills"
_DECODE = ("data.cache_side=null", "data.num_workers=2")

DATASETS = (
    PublicDataset(
        "kinetics400",
        "Kinetics-400 (Kay et al., arXiv 1705.06950)",
        "https://github.com/cvdfoundation/kinetics-dataset",
        "306,245 as published; copies lack what left YouTube (a common one: 240,436 train, 19,796 val)",
        400,
        "about 135 GB for train and val",
        f"videos belong to their uploaders; licence of the annotations {NOT_VERIFIED}",
        "Fetch clips and annotation csv with the scripts of that page.",
        "kinetics400/\n"
        "  annotations/train.csv, val.csv   label,youtube_id,time_start,time_end,split\n"
        "  train/-abc_DEF123_000010_000020.mp4   in class folders or not\n"
        "  val/…",
        "timesformer_kinetics400",
        ("data.root=kinetics400", "data.max_bad_fraction=0.1"),
    ),
    PublicDataset(
        "ssv2",
        "Something-Something v2 (Goyal et al., arXiv 1706.04261)",
        "https://developer.qualcomm.com/software/ai-datasets/something-something",
        "220,847",
        174,
        NOT_VERIFIED,
        "Qualcomm's research licence has to be agreed to",
        "Fetch the labels and all parts of the archive, join the parts and unpack them.",
        "ssv2/\n"
        "  labels/labels.json, train.json, validation.json\n"
        "  20bn-something-something-v2/78687.webm   or folders 78687/00001.jpg",
        "videomae_ssv2",
        ("data.root=ssv2",),
    ),
    PublicDataset(
        "ucf101",
        "UCF-101 (Soomro et al., arXiv 1212.0402)",
        "https://www.crcv.ucf.edu/data/UCF101.php",
        "13,320",
        101,
        "6.9 GB",
        NOT_VERIFIED,
        "Fetch UCF101.rar and the train/test splits for action recognition.",
        "ucf101/\n"
        "  ucfTrainTestlist/trainlist01.txt, testlist01.txt, …\n"
        "  UCF-101/Archery/v_Archery_g01_c01.avi",
        _SMALLEST,
        ("data.root=ucf101", "data.protocol=split_1", *_DECODE),
    ),
    PublicDataset(
        "hmdb51",
        "HMDB51 (Kuehne et al., ICCV 2011)",
        "https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database/",
        "6,766",
        51,
        "2.1 GB",
        "CC BY 4.0",
        "Fetch hmdb51_org.rar, unpack it and the archive of each class in it, and the three splits.",
        "hmdb51/\n  testTrainMulti_7030_splits/brush_hair_test_split1.txt, …\n  hmdb51_org/brush_hair/….avi",
        _SMALLEST,
        ("data.root=hmdb51", "data.protocol=split_1", *_DECODE),
    ),
    PublicDataset(
        "smarthome",
        "Toyota Smarthome, trimmed (Das et al., ICCV 2019)",
        "https://project.inria.fr/toyotasmarthome/",
        "16,115",
        31,
        NOT_VERIFIED,
        "for research, by request",
        "Ask for the trimmed version and fetch its RGB videos.",
        "smarthome/\n  mp4/Cook.Cleandishes_p02_r00_v02_c03.mp4",
        "timesformer_smarthome",
        ("data.root=smarthome",),
    ),
    PublicDataset(
        "ntu60",
        "NTU RGB+D (Shahroudy et al., arXiv 1604.02808)",
        _NTU_PAGE,
        "56,880",
        60,
        NOT_VERIFIED,
        _NTU_TERMS,
        "Fetch the RGB videos of setups 1 to 17; depth, infrared and skeletons are not used.",
        "ntu60/\n  rgb/S001C001P001R001A001_rgb.avi",
        "timesformer_ntu60",
        ("data.root=ntu60",),
    ),
    PublicDataset(
        "ntu120",
        "NTU RGB+D 120 (Liu et al., arXiv 1905.04757)",
        _NTU_PAGE,
        "114,480",
        120,
        NOT_VERIFIED,
        _NTU_TERMS,
        "Fetch the RGB videos of setups 1 to 32, those of NTU RGB+D among them.",
        "ntu120/\n  rgb/S018C001P008R001A061_rgb.avi",
        "timesformer_ntu60",
        ("data.root=ntu120", "data.protocol=cross_setup"),
    ),
    PublicDataset(
        "nw_ucla",
        "Northwestern-UCLA Multiview Action 3D (Wang et al., CVPR 2014)",
        "https://wangjiangb.github.io/my_data.html",
        "1,494",
        10,
        NOT_VERIFIED,
        NOT_VERIFIED,
        "Fetch the RGB videos, multiview_action_videos.tgz.",
        "nw_ucla/\n  multiview_action_videos/a01/v01_s01_e00.avi   or view_1/a01_s01_e00.mp4",
        "timesformer_nucla",
        ("data.root=nw_ucla",),
    ),
    PublicDataset(
        "tennis",
        "Tennis strokes cut from broadcasts (doi 10.1155/mse/1483523)",
        "https://doi.org/10.1155/mse/1483523",
        "371",
        7,
        NOT_VERIFIED,
        "no licence stated",
        "Fetch the clips and write clips.csv: neighbouring clips share a broadcast, so split by session.",
        "tennis/\n  clips.csv   path,label,session,fold\n  serve/serve1.mp4",
        "tennis7",
        ("data.root=tennis", "data.valid_split=0"),
    ),
)


def find_dataset(name: str) -> PublicDataset:
    """The data set of this name.

    Raises:
        UnknownDatasetError: there is none; the message names the nearest one.
    """
    for dataset in DATASETS:
        if dataset.name == name:
            return dataset
    names = [dataset.name for dataset in DATASETS]
    raise UnknownDatasetError(
        f"There is no data set named {name!r}. {did_you_mean(name, names)} `fibo data list` shows all."
    )
