"""What a user can get wrong, as exceptions that carry one helpful sentence.

Every error says what came, what was wanted and the line that mends it. The command line
prints that sentence alone (no traceback) and exits with 1; a program catches
`SphereKerasError`, or the narrower class that it can do something about.
"""


class SphereKerasError(ValueError):
    """Base of all errors that a user's input can cause.

    Attributes:
        status: the command line's exit status.
    """

    status = 1


class ImageError(SphereKerasError):
    """A picture is missing, damaged, not a picture, or of the wrong size."""


class NoFaceError(SphereKerasError):
    """A picture was read, and no face was found in it.

    Attributes:
        source: the path (or a description) of the picture.
    """

    def __init__(self, source: str) -> None:
        self.source = str(source)
        super().__init__(
            f"No face was found in {self.source}. Expected a picture with one visible face of at "
            "least about 40 pixels. If the picture is already an aligned crop, pass it as an "
            "array: `faces.embed(crop)`."
        )


class DataError(SphereKerasError):
    """A folder, zip, list or records folder does not hold what it should."""


class RecipeError(SphereKerasError):
    """A recipe names an unknown key or a value outside its range."""


class PresetError(SphereKerasError):
    """A preset is unknown, incomplete, or not what its checksums say."""


class ExportError(SphereKerasError):
    """An export could not be written, or its file is out of tolerance."""


class TrainingError(SphereKerasError):
    """Training cannot go on: a non-finite loss, or a checkpoint of something else."""


class WorkerError(TrainingError):
    """Another process of the run is gone; all of them started again go on where they were."""

    status = 75  # EX_TEMPFAIL of sysexits.h
