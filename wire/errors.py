"""Every error of this project, in one tree; each is also a standard exception and pickles.

    DeepIntuitError
        UserError (ValueError)          the user's fault: says what was got, what was expected,
        what to do
            ConfigError                 a recipe or --set value
            DataError                   a manifest, a label, a clip named in it
            PlacementError              more CPUs, GPUs or memory asked for than the cluster has
            DiskFull                    a file could not be written for want of room
            CheckpointDamaged           a checkpoint that is not as it was written
            LearnsNothing               a training whose updates change nothing worth keeping
        ClipError (RuntimeError)        a clip that cannot be decoded; quarantined, never fatal by
        itself
            NoVideo                     a file that is no video at all
            ClipTimedOut                a clip that takes longer to read than its deadline
            ClipUnreachable             a clip whose disk fails; not quarantined
        GenerationError (RuntimeError)  an engine that could not answer a request
        JudgeError (RuntimeError)       a judge that gave no score; the trace is masked, not zero
        WeightUpdateError (RuntimeError) an engine whose weights are not what the learner sent
        PeersLost (RuntimeError)        a learner rank whose connection to another one broke
        ParityError (RuntimeError)      rollout and trainer disagree beyond the tolerance
        TooManyFailures (RuntimeError)  more failed traces than the recipe allows
        DeadlineExceeded (TimeoutError) a wait that ended without an answer; names who was waited
        for
            RankHung                    a learner rank; all ranks have to start anew
        WorkerDied (RuntimeError)       a worker's process that ended on its own
            RankDied                    a learner rank; all ranks have to start anew
        ArchiveError (RuntimeError)     a trace archive that cannot be read or written
        StudyFailed (RuntimeError)      seeds of a study that failed, after the others have ended

To add one: derive from the branch whose handling it shares; keep a single message argument (pickle
needs it).
"""


class DeepIntuitError(Exception):
    """Base of all errors raised on purpose."""


class UserError(DeepIntuitError, ValueError):
    """The user can mend this: the message says got, expected, remedy. Shown without a traceback."""


class ConfigError(UserError):
    """A recipe does not describe a run that can start."""


class DataError(UserError):
    """A manifest or its clips cannot be used as they are."""


class PlacementError(UserError):
    """The cluster has not what the recipe asks for."""


class DiskFull(UserError):
    """A disk has no room left; the message names it (wire/disk.py)."""


class CheckpointDamaged(UserError):
    """A checkpoint that lacks files, or whose files have other bytes than were written."""


class LearnsNothing(UserError):
    """A training was ended because it learns nothing; the message has the figures, the limit and
    the remedy."""


class ClipError(DeepIntuitError, RuntimeError):
    """A clip cannot be opened or decoded."""


class NoVideo(ClipError):
    """A file is of another kind than a video's."""


class ClipTimedOut(ClipError):
    """A clip was not read by its deadline."""


class ClipUnreachable(ClipError):
    """A clip's disk does not give its bytes: not the clip's fault, so it is tried again later."""


class GenerationError(DeepIntuitError, RuntimeError):
    """The engine did not answer a request."""


class JudgeError(DeepIntuitError, RuntimeError):
    """A judge's endpoint did not give a score."""


class WeightUpdateError(DeepIntuitError, RuntimeError):
    """New weights did not arrive whole in an engine."""


class ParityError(DeepIntuitError, RuntimeError):
    """The engine's logprobs are not those of the weights that the learner sent."""


class TooManyFailures(DeepIntuitError, RuntimeError):
    """Decode, generation or reward failed more often than the recipe allows."""


class DeadlineExceeded(DeepIntuitError, TimeoutError):
    """A call was not answered in time; the message names who was called, for what, and how long."""


class WorkerDied(DeepIntuitError, RuntimeError):
    """The process of a worker ended on its own."""


class RankDied(WorkerDied):
    """A learner rank ended, or ran out of memory: all ranks have to start anew."""

    rank = 0
    """Its number."""
    cause = "died"
    """Why: ``died`` or ``out_of_memory``."""


class RankHung(DeadlineExceeded):
    """A learner rank did not answer in time: all ranks have to start anew."""

    rank = 0
    """Its number."""
    cause = "deadline"
    """Why."""


class PeersLost(DeepIntuitError, RuntimeError):
    """The connection of a learner rank to another one broke: all ranks have to start anew."""

    rank = 0
    """Its number."""
    cause = "lost_peers"
    """Why."""


class ArchiveError(DeepIntuitError, RuntimeError):
    """The trace archive cannot be read or written."""


class StudyFailed(DeepIntuitError, RuntimeError):
    """A seed of a study failed; the message names each one, and what it was doing."""


def root_causes(error: BaseException) -> list[BaseException]:
    """The errors inside a group, at any depth, and those that Ray wrapped."""
    if isinstance(error, BaseExceptionGroup):
        return [cause for inner in error.exceptions for cause in root_causes(inner)]
    wrapped = getattr(error, "cause", None)  # Ray wraps what an actor raised
    return [wrapped if isinstance(wrapped, BaseException) else error]
