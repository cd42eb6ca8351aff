# lightning-bench with every baseline that the H200's results have, flash-attn and xformers included.
#
#   docker build -t lightning-bench --build-arg COMMIT=$(git rev-parse --short=12 HEAD) .
#   docker run --rm --gpus all -v "$PWD/results:/work/results" lightning-bench speed paper
#
# flash-attn is compiled for the GPUs in ARCHS, in about an hour on 8 cores. The versions are those of
# docs/results-h200.md.
ARG CUDA=13.0.1-devel-ubuntu24.04
FROM nvidia/cuda:${CUDA} AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
ARG ARCHS="80;90"
ARG MAX_JOBS=8
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends git python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/lightning-bench
ENV PATH=/opt/lightning-bench/bin:$PATH
RUN pip install --no-cache-dir torch==2.11.0 triton==3.6.0 \
    && pip install --no-cache-dir ninja==1.13.0 packaging==25.0 psutil==7.2.2 setuptools==80.9.0 wheel==0.45.1 \
    && FLASH_ATTN_CUDA_ARCHS="$ARCHS" MAX_JOBS="$MAX_JOBS" \
       pip install --no-cache-dir --no-build-isolation flash-attn==2.8.3.post2
RUN pip install --no-cache-dir xformers==0.0.35 fla-core==0.6.0 lightning-attn==0.0.5
COPY . /src
ARG COMMIT=""
RUN LBENCH_COMMIT="$COMMIT" pip install --no-cache-dir '/src[all]' torch==2.11.0 triton==3.6.0

# Triton compiles its launchers with gcc and Python's headers at run time; nvcc is not needed any more.
FROM nvidia/cuda:13.0.1-base-ubuntu24.04
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc git libc6-dev python3-dev \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/lightning-bench /opt/lightning-bench
ENV PATH=/opt/lightning-bench/bin:$PATH
WORKDIR /work
ENTRYPOINT ["lbench"]
CMD ["--help"]
