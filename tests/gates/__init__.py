"""The gates, a file a rung. Installed as `ernie_qa.gates`, for `pytest --pyargs ernie_qa.gates`."""
