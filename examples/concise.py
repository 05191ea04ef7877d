"""Softmax regression on Fashion-MNIST, concisely. The notebook beside this file is made from it."""

# %% [markdown]
# # Softmax regression, concisely
# The chapter's model, data and trainer by this package. One cell each: data, model, training, what came out.

# %%
import tfsoftmax

data = tfsoftmax.FashionMNIST(batch_size=256)
print(data.spec.shape, data.classes)

# %% [markdown]
# The model is a plain `keras.Sequential` of `Flatten` and `Dense`. It returns logits; softmax and logarithm are
# computed at once, in the loss.

# %%
model = tfsoftmax.SoftmaxRegression(num_outputs=10, lr=0.1)
history = model.fit(data.train, validation_data=data.val, epochs=10, verbose=0).history
for epoch, (loss, val_loss) in enumerate(zip(history["loss"], history["val_loss"], strict=True), 1):
    print(f"epoch {epoch:>2}: loss {loss:.4f}, validation {val_loss:.4f}")

# %% [markdown]
# The test rows are looked at once, at the end.

# %%
print(model.evaluate(data.test, verbose=0, return_dict=True))

# %% [markdown]
# Why the loss takes logits: at 90 the formula as written is no number in float32, log-sum-exp is.

# %%
from tfsoftmax import numerics

print(numerics.naive_cross_entropy([90.0, 0.0], 0), numerics.cross_entropy([90.0, 0.0], 0))
