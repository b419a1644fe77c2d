"""AWS's wire protocols against our contracts: HTTP parameters to protobuf and back, from botocore's models as data.

    ec2 = QueryProtocol("ec2")                                   # also "sts"
    operation, message = ec2.parse(params)                       # decoded parameters of query string or form
    response = ec2.render(operation, message, request_id)        # Response(status, headers, body)

    s3 = RestXmlProtocol("s3")
    operation = s3.route(method, bucket, key, query, headers)    # bucket None: the service; key None: the bucket
    message = s3.parse(operation, bucket, key, query, headers, body)
    response = s3.render(operation, message, request_id)

    protocol.render_error(error, request_id)                     # both: Response for any CloudError

Parsing raises CloudError with the code that AWS has for the fault. What AWS knows and our contract leaves out is
refused by name, never dropped.
"""

from ec2_facade.protocol.model import Contract, Operation, Response, Stream
from ec2_facade.protocol.query import QueryProtocol
from ec2_facade.protocol.rest_xml import RestXmlProtocol

__all__ = ["Contract", "Operation", "QueryProtocol", "Response", "RestXmlProtocol", "Stream"]
