"""Why a host does not merge: facts and rules."""
