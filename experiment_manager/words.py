"""Words between people and us: names with commas between them, one job or several. Pure."""


def names_in(text: str) -> list[str]:
    """The names in a text.

    >>> names_in("algorithm, nn,")
    ['algorithm', 'nn']
    """
    return [name.strip() for name in text.split(",") if name.strip()]


def noun(n_jobs: int) -> str:
    """`job` for one of them, `jobs` for none and several."""
    return "job" if n_jobs == 1 else "jobs"


def counted(n_jobs: int) -> str:
    """So many jobs.

    >>> counted(1), counted(2)
    ('1 job', '2 jobs')
    """
    return f"{n_jobs} {noun(n_jobs)}"
