"""The checker: finds mistakes in how a model uses batch normalization. Checking does not change the model.

How to add a rule
-----------------
1. Write a class in a file of its own, in ``structure/`` (BN1xx), ``statistics/`` (BN2xx) or ``training/`` (BN3xx): a
   ``Rule`` (``rule.py``) with ``code``, ``name``, ``severity``, ``summary``, ``needs``, and ``findings(context)``, which yields
   ``self.finding(site, message, measured=..., limit=..., remedy=...)``. Add it to ``RULES`` in that folder's ``__init__``.
2. ``context`` is a ``CheckContext`` (``check_context.py``), which is made once for all rules and has

   - ``context.norms``: every batch norm with its properties (buffers, gamma, eps, ...); needs only the model;
   - ``context.example_trace``: one traced run on the example, ``Need.STRUCTURE``;
   - ``context.measurements``: one pass over the batches, ``Need.DATA``: the moments of every batch norm's input, batch by batch;
   - ``context.training``: optimizer, loader, ema, accumulation and processes, as given by the caller.

   A rule neither runs nor changes the model. Runs that several rules need belong into the context, which restores the model
   bit for bit afterwards, also after an exception.
3. Write ``pages/<code>.md``, with the headings of the others; its examples under "Wrong" and "Right" are run by the tests.
   ``docs/rules`` is the same folder; ``bnkit explain <code>`` prints the page.
4. If there is a mechanical fix, set ``is_fixable`` and write ``fix``, through the verbs of ``bnkit.model``.
5. Test that it fires where it should and is silent on the fixed model, in ``tests/checks/``. ``tests/checks/test_rule_pages.py``,
   ``test_healthy_networks.py`` and ``tests/model/test_preserve_state.py`` pick it up by themselves.
"""
