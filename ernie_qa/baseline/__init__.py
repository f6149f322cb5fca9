"""What people have accepted: figures by model, machine and recipe, and BF16's pictures of a small model.

    <root>/<model>/<machine>/<recipe>.json      accepted figures, see `ernie_qa.baseline.accepted`
    <root>/<model>/<machine>/pictures/          BF16's pictures and manifest.json, see `.pictures`
    <root>/noise/<model>/<machine>/<suite>.json how far BF16 is from BF16, see `.noise`
    <root>/candidates/                          bundles that runs left, for a person to accept or not

`<machine>` is the GPU's model, or `cpu` for all CPUs.
"""
