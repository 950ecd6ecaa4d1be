"""One file a target; see ``export/target.py`` for what a file defines.

It need not lie here: ``export/targets/NAME.py`` in any other folder of ``sys.path`` (of PYTHONPATH, say) is a target
too. Of two files of one name, the one here counts.
"""

import sys
from pathlib import Path

_elsewhere = (Path(entry, *__name__.split(".")) for entry in sys.path)
__path__ += [str(folder) for folder in _elsewhere if folder.is_dir() and not folder.samefile(__path__[0])]
