"""Points, models, activations and text: from files to checked tensors, and back atomically."""
