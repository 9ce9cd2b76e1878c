"""What we are compared with: small, honest, tuned as well as their authors would."""
