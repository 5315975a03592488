"""The methods that move weights, one line each: public names, the command line and the tables follow from these."""

from .acdc import ACDC as ACDC
from .cht import CHT as CHT
from .cht import CHTs as CHTs
from .cht import CHTss as CHTss
from .continuous_sparsification import ContinuousSparsification as ContinuousSparsification
from .deep_rewiring import DeepRewiring as DeepRewiring
from .dns import DNS as DNS
from .dsr import DSR as DSR
from .edge_popup import EdgePopup as EdgePopup
from .forgetting import Forgetting as Forgetting
from .gmp import GMP as GMP
from .granet import GraNet as GraNet
from .gse import GSE as GSE
from .han import Han as Han
from .karnin import Karnin as Karnin
from .l0 import L0 as L0
from .mest import MEST as MEST
from .powerpropagation import Powerpropagation as Powerpropagation
from .rigl import RigL as RigL
from .rigl_itop import RigLITOP as RigLITOP
from .set import SET as SET
from .soft_threshold import STR as STR
from .sparse_momentum import SparseMomentum as SparseMomentum
from .static import Static as Static
from .top_kast import TopKAST as TopKAST
from .variational_dropout import SparseVD as SparseVD
