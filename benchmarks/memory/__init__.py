"""Memory: the estimate against measured peaks, and a long run watched for growth."""
