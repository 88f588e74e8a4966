"""The capacity dashboard at `/dashboard`: pages rendered here, kept live over one stream of what has changed in them.

A person opens a page, which is whole HTML; its script then opens the same address as an event stream (`live`), over
which come the parts whose HTML has changed. So any replica can answer any request, nothing is kept per browser but
what it has been sent, and the policy of the pages allows no script but our own file. docs/dashboard.md tells why it is
not made with NiceGUI.
"""
