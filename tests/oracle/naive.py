"""Sparse momentum as DESIGN section 2 words it: an oracle for the product, slow and plain.

Nothing here imports `regrow`. Numbers are Python floats (float64) in dicts `position -> value`, where a
position is a flat row-major index. Whatever decides an integer (share, largest remainder) is computed with
exact fractions.

How to compare a product with it, step by step
----------------------------------------------
1. Make the sparse model in float64, read its weights and masks (initial active sets are random: an input).
2. Give them to the oracle, with the same optimizer settings:

       oracle = NaiveSparseMomentum(weights, masks, NaiveSGD(lr=0.1), total_steps=20, update_every=4)

   `weights` and `masks` map name -> tensor in the product's layer order, which breaks ties of the share rule.
3. Both must see the same *dense* gradients. Two ways:
   a. *fed*: a module whose loss is `(weight * G).sum()` with a constant tensor G has exactly G as its
      gradient, on inactive positions too. The sharpest test: ties, zeros, signs and missing gradients can be
      written by hand.
   b. *twin*: a plain, never sparsified copy of the model. `copy_weights(twin, oracle)`, then
      `dense_gradients(twin, names, loss)`. A torch optimizer of the same settings trains those parameters of
      the twin that are not sparse (biases, norms).
   What `oracle.step` gets is what the optimizer would see: loss scale removed, micro-batches accumulated,
   ranks averaged, clipped. Clipping uses the norm of the *sparse* network: multiply the dense gradients by
   `clip_factor(…)`. A step that the scaler skips is not given to the oracle at all. Weight decay is the
   optimizer's business: never add it to a gradient.
4. After every `optimizer.step()` of the product call `oracle.step({name: gradient or None})` and compare

       oracle.masks      name -> bool tensor        exactly
       oracle.weights    name -> float64 tensor     to rounding (rtol 1e-12 or so); inactive exactly 0
       oracle.state      name -> {"momentum_buffer": …} or {"exp_avg": …, "exp_avg_sq": …}, the optimizer's
                         own state on active positions (0 elsewhere: compare under the mask)
       oracle.momentum   name -> M of section 2 on all positions, missing ones included
       oracle.history    rows with step, prune_rate, name, pruned, grown, active, importance

   A changed learning rate: set `oracle.optimizer.lr` before the step. Updates by hand: `update_every=None`
   and `oracle.update()`.

The product may round its means differently, so an exact tie between *layers* (importance against 1/L, equal
remainders) is only safe to test with values whose sums are exact: small multiples of powers of two, and
numbers of layers and weights that are powers of two. Ties between positions are always safe.

Readings where the text is open
-------------------------------
- L in `r_l > 1/L` counts the layers that take part in this update; importance is normalised over these only.
- A layer takes part if a gradient tensor (even an all-zero one) came since the last update.
- A step without gradient leaves a layer's weights, state and M untouched, as torch's optimizers do.
- M of missing weights starts at 0 and is mu*M + (1 - dampening)*g at its first step too; torch's SGD sets its
  own buffer to g at its first step.
- window="all": the optimizer takes M over when a position grows and gives it back when it is pruned; M is not
  divided by anything.
- integer window: from zero, over all positions, the last `window` steps since the previous update. The window
  in "1 - mu^window" is the number of gradients that were really folded in (fewer if the interval is shorter
  or gradients were missing). M of an active position holds no weight decay.
- share="none" and a zero sum of importances give back exactly k_l; max_density then has no say.
- share="momentum-per-flop": only step 4 divides; the 80 % rule and the history use the undivided r_l.
- A history row has the scheduled rate p (not p_l), the normalised r_l, and the active count after the update;
  a layer left out has pruned = grown = 0 and importance 0.
- `update()` by hand at t >= total_steps does nothing.
- inherit_momentum=False: each grown position, a just-pruned one too, enters with momentum 0 and, under Adam, with the
  mean exp_avg_sq of the positions of its layer that were active before the update.
`flops_budget` is not modelled: section 2 does not say how it shares.
"""

import math
import warnings
from fractions import Fraction

import torch

# ---------------------------------------------------------------- how many weights each layer starts with


def initial_counts(shapes, density, distribution):
    """Active weights per layer: sum is round(density * sum n), between 1 and n_l each, by largest remainder.

    Layer l's quota is min(max(s * c_l, 1), n_l); c_l is its claim, s the one scale that makes the sum right.
    """
    sizes = [math.prod(shape) for shape in shapes]
    total = round(density * sum(sizes))
    if not len(sizes) <= total <= sum(sizes):
        raise ValueError(f"{total} active weights do not fit layers of {sizes}: each takes at least one")
    claims = [layer_claim(shape, distribution) for shape in shapes]
    return largest_remainder(total, clamped_quotas(total, claims, sizes))


def layer_claim(shape, distribution):
    """What a layer's count is proportional to, before bounds: size times relative density."""
    size = math.prod(shape)
    n_out, n_in = shape[0], shape[1]
    if distribution == "uniform":
        return Fraction(size)
    if distribution == "er":
        return size * Fraction(n_in + n_out, n_in * n_out)
    if distribution == "erk":
        return size * Fraction(sum(shape), size)
    raise ValueError(f"unknown distribution {distribution!r}")


def clamped_quotas(total, claims, sizes):
    """[min(max(s * claim, 1), size)] for the scale s at which they sum to total, exactly."""

    def quotas(scale):
        return [min(max(scale * c, Fraction(1)), Fraction(n)) for c, n in zip(claims, sizes, strict=True)]

    # The sum grows with s and is straight between the scales at which some layer meets a bound.
    bends = sorted({1 / c for c in claims} | {n / c for c, n in zip(claims, sizes, strict=True)})
    low = bends[0]
    if sum(quotas(low)) == total:
        return quotas(low)
    for high in bends[1:]:
        below, above = sum(quotas(low)), sum(quotas(high))
        if below < total <= above:
            return quotas(low + (high - low) * Fraction(total - below) / (above - below))
        low = high
    raise AssertionError("the total lies between the sums of the bounds")


def largest_remainder(total, quotas):
    """Round quotas that sum to total: floors, then one each to the largest remainders, ties by order."""
    if sum(quotas) != total:
        raise ValueError(f"quotas {quotas} do not sum to {total}")
    counts = [math.floor(quota) for quota in quotas]
    remainders = [quota - count for quota, count in zip(quotas, counts, strict=True)]
    while sum(counts) < total:
        best = 0
        for layer in range(len(counts)):
            if remainders[layer] > remainders[best]:  # strictly: of equals the first layer wins
                best = layer
        counts[best] += 1
        remainders[best] = Fraction(-1)
    return counts


# ---------------------------------------------------------------- 1. rate


def prune_rate(step, total, p0, kind):
    """The rate p at optimizer step `step` of `total`."""
    if kind == "cosine":
        return 0.005 + (p0 - 0.005) * (1 + math.cos(math.pi * step / total)) / 2
    if kind == "linear":
        return p0 * (1 - step / total)
    if kind == "constant":
        return p0
    raise ValueError(f"unknown schedule {kind!r}")


# ---------------------------------------------------------------- 2. importance


def mean_magnitude(momenta):
    """Mean of |M| over one layer's active weights (0 without any)."""
    return math.fsum(abs(m) for m in momenta) / len(momenta) if momenta else 0.0


def importance(magnitudes):
    """Mean magnitudes, one a layer, normalised to sum 1; exact fractions. All zeros stay zeros."""
    exact = [Fraction(magnitude) for magnitude in magnitudes]
    if sum(exact) == 0:
        return exact
    return [magnitude / sum(exact) for magnitude in exact]


# ---------------------------------------------------------------- 3. prune


def prune_counts(rate, active, sizes, r):
    """k_l of each participating layer, from m_l (active), n_l (sizes) and r_l (importance)."""
    counts = []
    for m, n, r_l in zip(active, sizes, r, strict=True):
        rate_l = rate
        more_than_80_percent = 5 * m > 4 * n
        if more_than_80_percent and r_l > Fraction(1, len(sizes)):
            rate_l = min(rate, 1 - m / n)
        counts.append(max(0, min(math.ceil(rate_l * m), m - 1)))
    return counts


def choose_prune(weights, k):
    """The k positions of smallest |w| in `weights` (position -> value), ties by lower index."""
    return sorted(weights, key=lambda position: (abs(weights[position]), position))[:k]


# ---------------------------------------------------------------- 4. share


def free_positions(active, sizes, pruned, limits=None):
    """f_l = n_l - m_l + k_l, or floor(max_density * n_l) - m_l + k_l (not below 0) where a limit is given."""
    free = []
    for layer, (m, n, k) in enumerate(zip(active, sizes, pruned, strict=True)):
        limit = None if limits is None else limits[layer]
        room = n if limit is None else min(n, math.floor(limit * n))
        free.append(max(0, room - m + k))
    return free


def share(total, r, free):
    """Deal `total` positions out: r_l * total, capped at free_l, the excess equally to layers not full."""
    if sum(free) < total:
        raise ValueError(f"{total} weights do not fit into {free} free positions")
    weights = [Fraction(r_l) for r_l in r]
    quotas = [weight / sum(weights) * total for weight in weights]
    while any(quota > f for quota, f in zip(quotas, free, strict=True)):
        excess = Fraction(0)
        for layer, f in enumerate(free):
            if quotas[layer] > f:
                excess += quotas[layer] - f
                quotas[layer] = Fraction(f)
        not_full = [layer for layer, f in enumerate(free) if quotas[layer] < f]
        for layer in not_full:
            quotas[layer] += excess / len(not_full)
    return largest_remainder(total, quotas)


# ---------------------------------------------------------------- 5. grow


def choose_grow(momenta, q):
    """The q positions of largest |M| in `momenta` (candidate position -> M), ties by lower index."""
    return sorted(momenta, key=lambda position: (-abs(momenta[position]), position))[:q]


# ---------------------------------------------------------------- optimizers, one position at a time
# `state` is one position's state, a dict of floats. `steps` counts the gradients that made it.


class NaiveSGD:
    """torch.optim.SGD with momentum."""

    def __init__(self, lr, momentum=0.9, dampening=0.0, nesterov=False, weight_decay=0.0):
        self.lr, self.mu, self.dampening = lr, momentum, dampening
        self.nesterov, self.weight_decay = nesterov, weight_decay

    def empty_state(self):
        """State of a position that has seen no gradient."""
        return {"momentum_buffer": 0.0}

    def step(self, w, g, state, steps):
        """New weight and state of an active position, when `steps` gradients came before this one."""
        g = g + self.weight_decay * w
        if steps == 0:
            buffer = g
        else:
            buffer = self.mu * state["momentum_buffer"] + (1 - self.dampening) * g
        direction = g + self.mu * buffer if self.nesterov else buffer
        return w - self.lr * direction, {"momentum_buffer": buffer}

    def state_of_newcomer(self, states):
        """What a position starts with that inherits nothing, in a layer whose active positions have these states."""
        return {"momentum_buffer": 0.0}

    def fold(self, state, g):
        """State of a missing position after one more gradient."""
        return {"momentum_buffer": self.mu * state["momentum_buffer"] + (1 - self.dampening) * g}

    def score(self, state, steps):
        """M."""
        return state["momentum_buffer"]

    def state_of_grown(self, windowed, window_steps, steps):
        """What a grown position starts with, from what `window_steps` gradients collected."""
        if window_steps == 0:
            return self.empty_state()
        return {"momentum_buffer": windowed["momentum_buffer"] / (1 - self.mu**window_steps)}


class NaiveAdam:
    """torch.optim.Adam, or AdamW when weight decay is decoupled."""

    def __init__(self, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled=False):
        self.lr, self.betas, self.eps = lr, betas, eps
        self.weight_decay, self.decoupled = weight_decay, decoupled

    def empty_state(self):
        """State of a position that has seen no gradient."""
        return {"exp_avg": 0.0, "exp_avg_sq": 0.0}

    def step(self, w, g, state, steps):
        """New weight and state of an active position, when `steps` gradients came before this one."""
        if self.decoupled:
            w = w - self.lr * self.weight_decay * w
        else:
            g = g + self.weight_decay * w
        state = self.fold(state, g)
        return w - self.lr * self.score(state, steps + 1), state

    def state_of_newcomer(self, states):
        """What a position starts with that inherits nothing, in a layer whose active positions have these states."""
        return {"exp_avg": 0.0, "exp_avg_sq": math.fsum(state["exp_avg_sq"] for state in states) / len(states)}

    def fold(self, state, g):
        """State after one more gradient, active or missing."""
        beta1, beta2 = self.betas
        return {
            "exp_avg": beta1 * state["exp_avg"] + (1 - beta1) * g,
            "exp_avg_sq": beta2 * state["exp_avg_sq"] + (1 - beta2) * g * g,
        }

    def unbiased(self, state, steps):
        """(m_hat, v_hat)."""
        if steps == 0:
            return 0.0, 0.0
        beta1, beta2 = self.betas
        return state["exp_avg"] / (1 - beta1**steps), state["exp_avg_sq"] / (1 - beta2**steps)

    def score(self, state, steps):
        """M: m_hat / (sqrt(v_hat) + eps)."""
        m_hat, v_hat = self.unbiased(state, steps)
        return 0.0 if m_hat == 0 else m_hat / (math.sqrt(v_hat) + self.eps)

    def state_of_grown(self, windowed, window_steps, steps):
        """What a grown position starts with: unbiased over the window, biased for the optimizer's count."""
        beta1, beta2 = self.betas
        m_hat, v_hat = self.unbiased(windowed, window_steps)
        return {"exp_avg": m_hat * (1 - beta1**steps), "exp_avg_sq": v_hat * (1 - beta2**steps)}


# ---------------------------------------------------------------- one layer and its missing momentum


class NaiveLayer:
    """One sparse weight: what is active, what the optimizer knows, what is collected for the others."""

    def __init__(self, name, weight, mask, optimizer):
        values = weight.detach().double().flatten().tolist()
        active = mask.flatten().tolist()
        self.name, self.shape, self.size = name, weight.shape, len(values)
        self.weights = {i: values[i] for i in range(self.size) if active[i]}  # active positions only
        self.states = {i: optimizer.empty_state() for i in self.weights}  # active positions only
        self.missing = {i: optimizer.empty_state() for i in range(self.size) if not active[i]}  # window="all"
        self.recent = []  # integer window: gradients (or None) of the last steps since the last update
        self.steps = 0  # gradients the optimizer has seen
        self.had_gradient = False  # since the last update

    def step(self, gradient, optimizer, window):
        """One optimizer step with a dense gradient (list of floats), or without any (None)."""
        if window != "all":
            self.recent = [*self.recent, gradient][-window:]
        if gradient is None:
            return
        for i in self.weights:
            self.weights[i], self.states[i] = optimizer.step(self.weights[i], gradient[i], self.states[i], self.steps)
        if window == "all":
            for i in self.missing:
                self.missing[i] = optimizer.fold(self.missing[i], gradient[i])
        self.steps += 1
        self.had_gradient = True

    def active_momenta(self, optimizer):
        """M of active positions: the optimizer's own."""
        return {i: optimizer.score(self.states[i], self.steps) for i in sorted(self.weights)}

    def window_state(self, optimizer, position):
        """State that the window's gradients collect from zero at one position, and their number."""
        state, count = optimizer.empty_state(), 0
        for gradient in self.recent:
            if gradient is not None:
                state, count = optimizer.fold(state, gradient[position]), count + 1
        return state, count

    def inactive_momentum(self, position, optimizer, window):
        """M of one inactive position."""
        if window == "all":
            return optimizer.score(self.missing[position], self.steps)
        state, count = self.window_state(optimizer, position)
        return optimizer.score(state, count)

    def prune(self, k):
        """Take k weights out, return their states. With window="all" their momentum lives on in `missing`."""
        pruned = {}
        for i in choose_prune(self.weights, k):
            pruned[i] = self.states.pop(i)
            self.missing[i] = pruned[i]
            del self.weights[i]
        return pruned

    def grow(self, q, pruned, optimizer, window, newcomer=None):
        """Put q weights in, at 0. A regrown just-pruned one has its own state back, unless all enter as newcomers."""
        candidates = {i: self.inactive_momentum(i, optimizer, window) for i in self.missing}
        for i in choose_grow(candidates, q):
            missing = self.missing.pop(i)
            self.weights[i] = 0.0
            if newcomer is not None:
                self.states[i] = dict(newcomer)
            elif i in pruned:
                self.states[i] = pruned[i]
            elif window == "all":
                self.states[i] = missing
            else:
                self.states[i] = optimizer.state_of_grown(*self.window_state(optimizer, i), self.steps)

    def dense(self, values, dtype=torch.float64):
        """A tensor of the layer's shape from position -> value; 0 where there is none."""
        return torch.tensor([values.get(i, 0) for i in range(self.size)], dtype=dtype).reshape(self.shape)


# ---------------------------------------------------------------- the whole method


class NaiveSparseMomentum:
    """Optimizer and updater in one: `step(gradients)` does what optimizer.step() and its hook do together.

    weights, masks: name -> tensor. max_density: None, a number for all layers, or name -> number.
    flops: name -> FLOPs per weight, for share="momentum-per-flop". window: "all" or a number of steps.
    """

    def __init__(
        self,
        weights,
        masks,
        optimizer,
        *,
        total_steps,
        update_every,
        prune_rate=0.5,
        schedule="cosine",
        share="momentum",
        flops=None,
        max_density=None,
        window="all",
        inherit_momentum=True,
    ):
        if share not in ("momentum", "none", "momentum-per-flop"):
            raise ValueError(f"unknown share rule {share!r}")
        if window != "all" and not (isinstance(window, int) and window >= 1):
            raise ValueError(f"window is 'all' or a number of steps, got {window!r}")
        self.layers = [NaiveLayer(name, weights[name], masks[name], optimizer) for name in weights]
        self.optimizer, self.window, self.inherits = optimizer, window, inherit_momentum
        self.total_steps, self.update_every = total_steps, update_every
        self.first_rate, self.schedule = prune_rate, schedule
        self.share_rule, self.flops, self.max_density = share, flops, max_density
        self.t = 0
        self.history = []

    def step(self, gradients):
        """One optimizer step; gradients: name -> dense tensor as the optimizer sees it, or None."""
        for layer in self.layers:
            gradient = gradients.get(layer.name)
            values = None if gradient is None else gradient.detach().double().flatten().tolist()
            layer.step(values, self.optimizer, self.window)
        self.t += 1
        if self.update_every is not None and self.t % self.update_every == 0:
            self.update()

    def update(self):
        """One change of the topology, steps 1 to 5 of section 2; nothing from total_steps on."""
        if self.t >= self.total_steps:
            return
        before = sum(len(layer.weights) for layer in self.layers)

        rate = prune_rate(self.t, self.total_steps, self.first_rate, self.schedule)
        there = [layer for layer in self.layers if layer.had_gradient]
        active, sizes = [len(layer.weights) for layer in there], [layer.size for layer in there]
        r = importance([mean_magnitude(layer.active_momenta(self.optimizer).values()) for layer in there])
        k = prune_counts(rate, active, sizes, r)
        q = self.shared(there, r, k, active, sizes)
        for layer, k_l, q_l in zip(there, k, q, strict=True):
            newcomer = None if self.inherits else self.optimizer.state_of_newcomer(list(layer.states.values()))
            pruned = layer.prune(k_l)
            layer.grow(q_l, pruned, self.optimizer, self.window, newcomer)

        self.record(rate, there, r, k, q)
        for layer in self.layers:
            layer.had_gradient, layer.recent = False, []
        assert sum(len(layer.weights) for layer in self.layers) == before

    def shared(self, there, r, k, active, sizes):
        """Step 4: how many each participating layer grows."""
        if self.share_rule == "none" or not there:
            return k
        if sum(r) == 0:
            warnings.warn("all importances are 0: each layer gets its own weights back", stacklevel=3)
            return k
        if self.share_rule == "momentum-per-flop":
            r = [r_l / Fraction(self.flops[layer.name]) for layer, r_l in zip(there, r, strict=True)]
        return share(sum(k), r, free_positions(active, sizes, k, [self.limit(layer.name) for layer in there]))

    def limit(self, name):
        """max_density of one layer, or None."""
        return self.max_density.get(name) if isinstance(self.max_density, dict) else self.max_density

    def record(self, rate, there, r, k, q):
        """A history row for each layer, after the change."""
        numbers = {layer.name: row for layer, *row in zip(there, r, k, q, strict=True)}
        for layer in self.layers:
            r_l, k_l, q_l = numbers.get(layer.name, (0, 0, 0))
            self.history.append(
                {
                    "step": self.t,
                    "prune_rate": rate,
                    "name": layer.name,
                    "pruned": k_l,
                    "grown": q_l,
                    "active": len(layer.weights),
                    "importance": float(r_l),
                }
            )

    @property
    def masks(self):
        """name -> bool tensor."""
        return {a.name: a.dense(dict.fromkeys(a.weights, True), torch.bool) for a in self.layers}

    @property
    def weights(self):
        """name -> float64 tensor, 0 where inactive."""
        return {a.name: a.dense(a.weights) for a in self.layers}

    @property
    def state(self):
        """name -> state key -> float64 tensor: the optimizer's own, on active positions; 0 elsewhere."""
        return {
            a.name: {
                key: a.dense({i: state[key] for i, state in a.states.items()}) for key in self.optimizer.empty_state()
            }
            for a in self.layers
        }

    @property
    def momentum(self):
        """name -> M: the optimizer's own on active positions, the collected one (undivided) on missing ones.

        Right after an update an integer window has collected nothing: M of missing positions is then 0.
        """
        found = {}
        for a in self.layers:
            missing = {i: a.inactive_momentum(i, self.optimizer, self.window) for i in a.missing}
            found[a.name] = a.dense(missing | a.active_momenta(self.optimizer))
        return found


# ---------------------------------------------------------------- for a twin: the model, never sparsified


def copy_weights(twin, oracle):
    """Write the oracle's weights into the plain model."""
    with torch.no_grad():
        for name, weight in oracle.weights.items():
            twin.get_parameter(name).copy_(weight)


def dense_gradients(twin, names, loss):
    """Dense gradients of `loss()` at the named parameters (None for one that is not reached).

    The other parameters of the twin have their `.grad` set, for an optimizer of theirs.
    """
    twin.zero_grad(set_to_none=True)
    loss().backward()
    return {name: twin.get_parameter(name).grad for name in names}


def clip_factor(gradients, masks, others, max_norm):
    """torch's clip_grad_norm_ factor for the sparse network: active positions and all `others` count."""
    squares = []
    for gradient in others:
        if gradient is not None:
            squares += [g * g for g in gradient.flatten().tolist()]
    for name, gradient in gradients.items():
        if gradient is not None:
            active = masks[name].flatten().tolist()
            squares += [g * g for g, a in zip(gradient.flatten().tolist(), active, strict=True) if a]
    return min(1.0, max_norm / (math.sqrt(math.fsum(squares)) + 1e-6))
