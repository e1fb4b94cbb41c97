"""Their side: PEFT's prompt or prefix tuning on Hugging Face's T5 (PyTorch) with random weights."""

import peft
import torch
import transformers
from sizes import LEARNING_RATE, WEIGHT_DECAY, Size


class Theirs:
    """PEFT as its documentation sets it up: a prompt in the encoder, or a prefix in the decoder."""

    def __init__(
        self,
        size: Size,
        dropout: float,
        threads: int,
        prefix: bool = False,
        dtype: str = "float32",
        device: str = "cpu",
    ):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        config = transformers.T5Config(
            vocab_size=size.vocab_size,
            d_model=size.emb_dim,
            d_kv=size.head_dim,
            d_ff=size.mlp_dim,
            num_layers=size.num_layers,
            num_decoder_layers=size.num_layers,
            num_heads=size.num_heads,
            dropout_rate=dropout,
            feed_forward_proj="relu",
            pad_token_id=0,
            eos_token_id=1,
            decoder_start_token_id=0,
        )
        backbone = transformers.T5ForConditionalGeneration(config)
        # No token is the end: both sides decode every position.
        backbone.generation_config.eos_token_id = None
        task = peft.TaskType.SEQ_2_SEQ_LM
        if prefix:
            joined = size.num_heads * size.head_dim
            trained = size.prefix_length * size.num_layers * 2 * joined
            method = peft.PrefixTuningConfig(
                task_type=task, num_virtual_tokens=size.prefix_length, token_dim=joined
            )
        else:
            trained = size.prompt_length * size.emb_dim
            method = peft.PromptTuningConfig(
                task_type=task,
                num_virtual_tokens=size.prompt_length,
                # The default, 2, would also put a prompt in front of the decoder's input.
                num_transformer_submodules=1,
            )
        self._device = device
        # The prompt stays in float32, as ours does.
        backbone = backbone.to(device, getattr(torch, dtype))
        self._model = peft.get_peft_model(backbone, method).to(device)
        trainable = [p for p in self._model.parameters() if p.requires_grad]
        assert sum(p.numel() for p in trainable) == trained
        self._optimizer = torch.optim.AdamW(trainable, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)

    def train(self, batch) -> float:
        """One step; returns the loss."""
        self._model.train()
        tokens = self._tokens(batch["encoder_input_tokens"])
        targets = self._tokens(batch["decoder_target_tokens"])
        loss = self._model(
            input_ids=tokens,
            attention_mask=(tokens > 0).long(),
            labels=targets.masked_fill(targets == 0, -100),
        ).loss
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        return float(loss.detach())

    @torch.inference_mode()
    def generate(self, tokens, length: int):
        """Greedy decoding of exactly `length` tokens per row."""
        self._model.eval()
        tokens = self._tokens(tokens)
        generated = self._model.generate(
            input_ids=tokens,
            attention_mask=(tokens > 0).long(),
            max_new_tokens=length,
            num_beams=1,
            do_sample=False,
        )
        assert generated.shape == (len(tokens), length + 1), generated.shape
        return generated[:, 1:].cpu().numpy()

    def _tokens(self, tokens):
        return torch.as_tensor(tokens, dtype=torch.long, device=self._device)


def matmul_gflop_per_second(n: int) -> float:
    """PyTorch's rate for one float32 product of two `[n, n]` matrices."""
    from processes import seconds

    x = torch.full((n, n), 0.5)
    with torch.inference_mode():
        torch.mm(x, x)
        return 2e-9 * n**3 / min(seconds(lambda: torch.mm(x, x)) for _ in range(3))
