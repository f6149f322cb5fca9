"""Is a quantized ERNIE-Image pipeline still good, and is it really running quantized?

    import ernie_qa

    model = ernie_qa.find_model("mini")
    reference = ernie_qa.observe(ernie_qa.load_pipeline(model, "bf16"), "bf16", "mini")
    pipe = ernie_qa.load_pipeline(model, "sdnq-uint4-static")
    record = ernie_qa.observe(pipe, "sdnq-uint4-static", "mini", reference=reference)
    print(ernie_qa.judge(record, reference, "sdnq-uint4-static"))

Importing this imports no torch: whatever draws or measures does so when it is called.
"""
