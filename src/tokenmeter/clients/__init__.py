"""The only code that touches HTTP libraries and SDKs."""
