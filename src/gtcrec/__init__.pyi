from . import data as data
from . import evaluation as evaluation
from . import experiments as experiments
from . import models as models
from . import serving as serving
from . import testing as testing
from .data.datasets import load_dataset as load_dataset
from .data.splits import split as split
from .evaluation.comparison import compare as compare
from .evaluation.evaluator import evaluate as evaluate
from .experiments.benchmark import benchmark as benchmark
from .experiments.run import Run as Run
from .experiments.run import train as train
from .experiments.tuning import tune as tune
from .ops import losses as losses
from .reporting.notebook import show_items as show_items
from .serving.gtc import GTC as GTC
from .serving.recommender import Recommender as Recommender
from .types import Dataset as Dataset
from .types import Interactions as Interactions
from .types import ItemFeatures as ItemFeatures
from .types import Report as Report
from .types import Split as Split

__version__: str
