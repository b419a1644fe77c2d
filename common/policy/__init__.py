"""AWS's policy language: documents parsed once, and whether they allow or deny a request. Pure.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_grammar.html
"""
