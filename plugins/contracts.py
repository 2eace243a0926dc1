"""The contracts, for import by authors of plugins. Each kind is in its own file.

A plugin is a class registered under an entry-point group:

=======================  ======================================================================
``adaptdock.adapters``   a :class:`Method` (``methods.py``, ``method_abilities.py``): how an adapter changes the values
                         at a port; or a :class:`Combination` of several
``adaptdock.tasks``      a :class:`Task` (``tasks.py``, ``task_abilities.py``): data in, head, loss, metrics, readable
                         predictions out
``adaptdock.backbones``  a :class:`BackboneFamily` (``backbones.py``): how to load a model, and where its ports are
=======================  ======================================================================
"""

from adaptdock.plugins.annotations import AnnotatedText as AnnotatedText
from adaptdock.plugins.annotations import LabelledSpan as LabelledSpan
from adaptdock.plugins.annotations import Relation as Relation
from adaptdock.plugins.backbones import AttentionHandler as AttentionHandler
from adaptdock.plugins.backbones import Backbone as Backbone
from adaptdock.plugins.backbones import BackboneFamily as BackboneFamily
from adaptdock.plugins.backbones import Continuation as Continuation
from adaptdock.plugins.forward_pass import Batch as Batch
from adaptdock.plugins.forward_pass import CallHandler as CallHandler
from adaptdock.plugins.forward_pass import ForwardPass as ForwardPass
from adaptdock.plugins.forward_pass import Layout as Layout
from adaptdock.plugins.forward_pass import Positions as Positions
from adaptdock.plugins.loaded_models import AdoptsModels as AdoptsModels
from adaptdock.plugins.method_abilities import AdapterHubFusion as AdapterHubFusion
from adaptdock.plugins.method_abilities import AdapterHubInterchange as AdapterHubInterchange
from adaptdock.plugins.method_abilities import Invoked as Invoked
from adaptdock.plugins.method_abilities import Mergeable as Mergeable
from adaptdock.plugins.method_abilities import PeftInterchange as PeftInterchange
from adaptdock.plugins.method_abilities import Penalised as Penalised
from adaptdock.plugins.method_abilities import Reparameterised as Reparameterised
from adaptdock.plugins.method_abilities import Stepped as Stepped
from adaptdock.plugins.method_abilities import WeightInterchange as WeightInterchange
from adaptdock.plugins.methods import Combination as Combination
from adaptdock.plugins.methods import Composite as Composite
from adaptdock.plugins.methods import LowRank as LowRank
from adaptdock.plugins.methods import Method as Method
from adaptdock.plugins.methods import Parameter as Parameter
from adaptdock.plugins.methods import Side as Side
from adaptdock.plugins.methods import Site as Site
from adaptdock.plugins.methods import Trained as Trained
from adaptdock.plugins.options import API_VERSION as API_VERSION
from adaptdock.plugins.options import Labels as Labels
from adaptdock.plugins.options import LoadOptions as LoadOptions
from adaptdock.plugins.options import Options as Options
from adaptdock.plugins.options import Recipe as Recipe
from adaptdock.plugins.outcomes import Decision as Decision
from adaptdock.plugins.outcomes import Mark as Mark
from adaptdock.plugins.outcomes import Outcome as Outcome
from adaptdock.plugins.outcomes import Passage as Passage
from adaptdock.plugins.ports import Port as Port
from adaptdock.plugins.ports import PortKind as PortKind
from adaptdock.plugins.ports import Ports as Ports
from adaptdock.plugins.ports import Prepended as Prepended
from adaptdock.plugins.ports import Residual as Residual
from adaptdock.plugins.ports import Virtual as Virtual
from adaptdock.plugins.processors import Content as Content
from adaptdock.plugins.processors import Processor as Processor
from adaptdock.plugins.task_abilities import Annotatable as Annotatable
from adaptdock.plugins.task_abilities import Annotating as Annotating
from adaptdock.plugins.task_abilities import AnswerKind as AnswerKind
from adaptdock.plugins.task_abilities import Calibrated as Calibrated
from adaptdock.plugins.task_abilities import CandidateHead as CandidateHead
from adaptdock.plugins.task_abilities import ClassicallyAnswered as ClassicallyAnswered
from adaptdock.plugins.task_abilities import ClassLabelled as ClassLabelled
from adaptdock.plugins.task_abilities import FitExamples as FitExamples
from adaptdock.plugins.task_abilities import FittedHead as FittedHead
from adaptdock.plugins.task_abilities import Grouped as Grouped
from adaptdock.plugins.task_abilities import LabelChecked as LabelChecked
from adaptdock.plugins.task_abilities import Labelling as Labelling
from adaptdock.plugins.task_abilities import LinearHead as LinearHead
from adaptdock.plugins.task_abilities import Occludable as Occludable
from adaptdock.plugins.task_abilities import Probed as Probed
from adaptdock.plugins.task_abilities import PseudoLabelling as PseudoLabelling
from adaptdock.plugins.task_abilities import Reported as Reported
from adaptdock.plugins.task_abilities import Scoped as Scoped
from adaptdock.plugins.task_abilities import Shown as Shown
from adaptdock.plugins.task_abilities import Summable as Summable
from adaptdock.plugins.task_abilities import UnknownLabels as UnknownLabels
from adaptdock.plugins.task_abilities import Weighted as Weighted
from adaptdock.plugins.task_abilities import WindowSampling as WindowSampling
from adaptdock.plugins.tasks import Cleaned as Cleaned
from adaptdock.plugins.tasks import ColumnInspector as ColumnInspector
from adaptdock.plugins.tasks import Feature as Feature
from adaptdock.plugins.tasks import Head as Head
from adaptdock.plugins.tasks import Reading as Reading
from adaptdock.plugins.tasks import Record as Record
from adaptdock.plugins.tasks import Task as Task
from adaptdock.plugins.tasks import Tied as Tied
from adaptdock.plugins.tasks import WithRowInputs as WithRowInputs
from adaptdock.plugins.tasks import Writer as Writer
