# SPDX-License-Identifier: Apache-2.0
"""What a model's files say, without torch: where they are, the model's shape, the tensors of a GGUF file.

Both sides of the server read here: the api side the context length and the end-of-text tokens, the compute
side the shape and the weights. It knows neither tokens' text (`text/`) nor modules (`models/`).
"""
