"""The only package that knows cffi: libtrit as typed Python. Import names from its modules."""
