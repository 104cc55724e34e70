"""The question, paper and arXiv number of each method that the sample report shows."""

PAPERS = {
    "geometry/two-nn": (
        "On how many dimensions do the points lie, locally?",
        "Facco et al. 2017",
        "1803.06992",
    ),
    "geometry/mle": (
        "How many dimensions best explain the distances to the k nearest?",
        "Levina & Bickel 2004",
        None,
    ),
    "geometry/participation-ratio": (
        "Over how many equal directions is the variance spread?",
        "Gao et al. 2017",
        None,
    ),
    "geometry/rank-90": ("How few directions hold 90% of the variance?", "Jolliffe 2002", None),
    "geometry/rank-99": ("How few directions hold 99% of the variance?", "Jolliffe 2002", None),
    "geometry/anisotropy": (
        "Which share of the variance lies in the leading direction?",
        "Ethayarajh 2019",
        "1909.00512",
    ),
    "geometry/isoscore": (
        "How evenly are all directions used, from 0 to 1?",
        "Rudman et al. 2022",
        "2108.07344",
    ),
    "geometry/early-enrichment": (
        "How much sooner do the first directions collect the variance?",
        "Marbut et al. 2023",
        "2307.00555",
    ),
    "geometry/uniformity": (
        "How evenly do the rows cover the sphere?",
        "Wang & Isola 2020",
        "2005.10242",
    ),
    "geometry/outlier-dimensions": (
        "How many coordinates have a far larger variance than the rest?",
        "Kovaleva et al. 2021",
        "2105.06990",
    ),
    "geometry/hubness": (
        "Do a few points appear among everybody's neighbours?",
        "Radovanovic et al. 2010",
        None,
    ),
    "geometry/near-duplicates": (
        "How many pairs are almost the same point?",
        "Lee et al. 2022",
        "2107.06499",
    ),
    "geometry/mean-cosine": ("Do the rows point the same way?", "Ethayarajh 2019", "1909.00512"),
    "diversity/vendi": (
        "How many effectively different items are there?",
        "Friedman & Dieng 2023",
        "2210.02410",
    ),
    "diversity/von-neumann-entropy": (
        "How many nats of spread does the similarity matrix hold?",
        "Friedman & Dieng 2023",
        "2210.02410",
    ),
    "spectra/stable-rank": (
        "How many directions as strong as the strongest?",
        "Rudelson & Vershynin 2007",
        "math/0503442",
    ),
    "spectra/entropy-rank": (
        "How many directions are in use, by entropy?",
        "Roy & Vetterli 2007",
        None,
    ),
    "spectra/effective-rank": (
        "How many directions are in use, by participation?",
        "Gao et al. 2017",
        None,
    ),
    "spectra/rank-90": ("How few directions hold 90% of the energy?", "Jolliffe 2002", None),
    "spectra/rank-99": ("How few directions hold 99% of the energy?", "Jolliffe 2002", None),
    "spectra/marchenko-pastur": (
        "How many directions stand out of the noise?",
        "Gavish & Donoho 2014",
        "1305.5870",
    ),
    "spectra/tail-exponent": (
        "How heavy is the tail of the spectrum?",
        "Clauset et al. 2009",
        "0706.1062",
    ),
    "spectra/init-distance": (
        "How far is the matrix from a fresh initialisation?",
        "Martin & Mahoney 2021",
        "1810.01075",
    ),
}
