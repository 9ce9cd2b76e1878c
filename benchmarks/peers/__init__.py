"""The alternatives to compare with: small, and tuned as well as their authors would."""
