"""The networks: torchvision-named ResNets, CIFAR ResNets and VGGs, and what each is made of (stages, units)."""
