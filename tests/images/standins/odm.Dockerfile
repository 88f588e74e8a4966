# In place of opendronemap/odm: what of that image a node meets that stands on it (its paths, its Python's own paths, its
# entry point), around the tests' stand-in for the engine.
FROM standin/python
ENV PYTHONPATH=:/code/SuperBuild/install/lib/python3.12/dist-packages LD_LIBRARY_PATH=/code/SuperBuild/install/lib
# What stands on ODM's paths must not be taken for the node's own.
RUN mkdir -p /code/SuperBuild/install/lib/python3.12/dist-packages /code/venv/bin /code/storage \
  && echo 'raise ImportError("the numpy of ODM was taken for the own")' \
     >/code/SuperBuild/install/lib/python3.12/dist-packages/numpy.py \
  && cp /code/SuperBuild/install/lib/python3.12/dist-packages/numpy.py \
     /code/SuperBuild/install/lib/python3.12/dist-packages/httpx.py \
  && echo 3.6.0 >/code/VERSION \
  && printf '#!/bin/sh\nexec /usr/bin/python3 /code/run.py "$@"\n' >/code/run.sh \
  && chmod +x /code/run.sh
COPY standin_odm.py /code/run.py
ENV PATH=/code/venv/bin:$PATH
WORKDIR /code
ENTRYPOINT ["python3", "/code/run.py"]
