#pragma once

// The names that programs give to the tensors of one kind of module, a row for each tensor: '#' stands for a number, '*'
// for the rest, '{a,b,c}' for several tensors that ours holds one after the other along dimension 0, of which one
// without a name ('{a,,c}') is 0; "" for what a program's model does not have.

#include <string_view>

namespace smooseg::io::detail {

/// A vision transformer's tensors, in our names (DINO's and DINOv2's own) and those of timm, of Hugging Face's ViTModel
/// and of its Dinov2Model (with registers or not).
inline constexpr std::string_view kTransformerNames[][4] = {
    {"cls_token", "cls_token", "embeddings.cls_token", "embeddings.cls_token"},
    {"pos_embed", "pos_embed", "embeddings.position_embeddings", "embeddings.position_embeddings"},
    {"register_tokens", "reg_token", "", "embeddings.register_tokens"},
    {"patch_embed.proj.*", "patch_embed.proj.*", "embeddings.patch_embeddings.projection.*",
     "embeddings.patch_embeddings.projection.*"},
    {"blocks.#.norm1.*", "blocks.#.norm1.*", "encoder.layer.#.layernorm_before.*", "encoder.layer.#.norm1.*"},
    {"blocks.#.attn.qkv.*", "blocks.#.attn.qkv.*", "encoder.layer.#.attention.attention.{query,key,value}.*",
     "encoder.layer.#.attention.attention.{query,key,value}.*"},
    {"blocks.#.attn.proj.*", "blocks.#.attn.proj.*", "encoder.layer.#.attention.output.dense.*",
     "encoder.layer.#.attention.output.dense.*"},
    {"blocks.#.ls1.gamma", "blocks.#.ls1.gamma", "", "encoder.layer.#.layer_scale1.lambda1"},
    {"blocks.#.norm2.*", "blocks.#.norm2.*", "encoder.layer.#.layernorm_after.*", "encoder.layer.#.norm2.*"},
    {"blocks.#.mlp.fc1.*", "blocks.#.mlp.fc1.*", "encoder.layer.#.intermediate.dense.*", "encoder.layer.#.mlp.fc1.*"},
    {"blocks.#.mlp.fc2.*", "blocks.#.mlp.fc2.*", "encoder.layer.#.output.dense.*", "encoder.layer.#.mlp.fc2.*"},
    {"blocks.#.mlp.w12.*", "blocks.#.mlp.fc1.*", "", "encoder.layer.#.mlp.weights_in.*"},
    {"blocks.#.mlp.w3.*", "blocks.#.mlp.fc2.*", "", "encoder.layer.#.mlp.weights_out.*"},
    {"blocks.#.ls2.gamma", "blocks.#.ls2.gamma", "", "encoder.layer.#.layer_scale2.lambda1"},
    {"norm.*", "norm.*", "layernorm.*", "layernorm.*"},
    // Hugging Face's names above are those of `save_pretrained`. In memory since transformers 5, and so in what
    // `torch.save` wrote of a state dict, some are these.
    {"blocks.#.norm1.*", "", "layers.#.layernorm_before.*", ""},
    {"blocks.#.attn.qkv.*", "", "layers.#.attention.{q_proj,k_proj,v_proj}.*",
     "encoder.layer.#.attention.{q_proj,k_proj,v_proj}.*"},
    {"blocks.#.attn.proj.*", "", "layers.#.attention.o_proj.*", "encoder.layer.#.attention.o_proj.*"},
    {"blocks.#.norm2.*", "", "layers.#.layernorm_after.*", ""},
    {"blocks.#.mlp.fc1.*", "", "layers.#.mlp.fc1.*", ""},
    {"blocks.#.mlp.fc2.*", "", "layers.#.mlp.fc2.*", ""},
    {"blocks.#.mlp.w12.*", "", "", "encoder.layer.#.mlp.{gate_proj,up_proj}.*"},
    {"blocks.#.mlp.w3.*", "", "", "encoder.layer.#.mlp.down_proj.*"},
};

/// The tensors of a vision transformer with rotary positions, in our names and those of DINOv3's published files, of timm
/// and of Hugging Face's DINOv3ViTModel.
inline constexpr std::string_view kRotaryTransformerNames[][4] = {
    {"cls_token", "cls_token", "cls_token", "embeddings.cls_token"},
    {"register_tokens", "storage_tokens", "reg_token", "embeddings.register_tokens"},
    {"patch_embed.proj.weight", "patch_embed.proj.weight", "patch_embed.proj.weight",
     "embeddings.patch_embeddings.weight"},
    {"patch_embed.proj.bias", "patch_embed.proj.bias", "patch_embed.proj.bias", "embeddings.patch_embeddings.bias"},
    {"rope_embed.periods", "rope_embed.periods", "", ""},
    {"blocks.#.norm1.*", "blocks.#.norm1.*", "blocks.#.norm1.*", "layer.#.norm1.*"},
    {"blocks.#.attn.qkv.weight", "blocks.#.attn.qkv.weight", "blocks.#.attn.qkv.weight",
     "layer.#.attention.{q_proj,k_proj,v_proj}.weight"},
    {"blocks.#.attn.qkv.bias", "blocks.#.attn.qkv.bias", "blocks.#.attn.{q_bias,,v_bias}",
     "layer.#.attention.{q_proj,,v_proj}.bias"},
    {"blocks.#.attn.qkv.bias_mask", "blocks.#.attn.qkv.bias_mask", "", ""},
    {"blocks.#.attn.proj.*", "blocks.#.attn.proj.*", "blocks.#.attn.proj.*", "layer.#.attention.o_proj.*"},
    {"blocks.#.ls1.gamma", "blocks.#.ls1.gamma", "blocks.#.gamma_1", "layer.#.layer_scale1.lambda1"},
    {"blocks.#.norm2.*", "blocks.#.norm2.*", "blocks.#.norm2.*", "layer.#.norm2.*"},
    {"blocks.#.mlp.w12.*", "blocks.#.mlp.{w1,w2}.*", "blocks.#.mlp.{fc1_g,fc1_x}.*",
     "layer.#.mlp.{gate_proj,up_proj}.*"},
    {"blocks.#.mlp.fc1.*", "blocks.#.mlp.fc1.*", "blocks.#.mlp.fc1.*", "layer.#.mlp.up_proj.*"},
    {"blocks.#.mlp.fc2.*", "blocks.#.mlp.fc2.*", "blocks.#.mlp.fc2.*", "layer.#.mlp.down_proj.*"},
    {"blocks.#.mlp.w3.*", "blocks.#.mlp.w3.*", "blocks.#.mlp.fc2.*", "layer.#.mlp.down_proj.*"},
    {"blocks.#.ls2.gamma", "blocks.#.ls2.gamma", "blocks.#.gamma_2", "layer.#.layer_scale2.lambda1"},
    {"norm.*", "norm.*", "norm.*", "norm.*"},
};

/// A ConvNeXt's tensors, in our names (those of DINOv3's published files), timm's and those of Hugging Face's
/// DINOv3ConvNextModel.
inline constexpr std::string_view kConvNeXtNames[][3] = {
    {"downsample_layers.0.#.*", "stem.#.*", "stages.0.downsample_layers.#.*"},
    {"downsample_layers.#.#.*", "stages.#.downsample.#.*", "stages.#.downsample_layers.#.*"},
    {"stages.#.#.dwconv.*", "stages.#.blocks.#.conv_dw.*", "stages.#.layers.#.depthwise_conv.*"},
    {"stages.#.#.norm.*", "stages.#.blocks.#.norm.*", "stages.#.layers.#.layer_norm.*"},
    {"stages.#.#.pwconv1.*", "stages.#.blocks.#.mlp.fc1.*", "stages.#.layers.#.pointwise_conv1.*"},
    {"stages.#.#.pwconv2.*", "stages.#.blocks.#.mlp.fc2.*", "stages.#.layers.#.pointwise_conv2.*"},
    {"stages.#.#.gamma", "stages.#.blocks.#.gamma", "stages.#.layers.#.gamma"},
    {"norms.3.*", "head.norm.*", "layer_norm.*"},
};

/// A ResNet's tensors, whose names are torchvision's in DINO's and MoCo's files, in timm's and in ours.
inline constexpr std::string_view kResNetNames[] = {"conv1.*", "bn1.*", "layer#.#.conv#.*", "layer#.#.bn#.*",
                                                    "layer#.#.downsample.#.*"};

/// The tensors of our Segmenter, in our names and those of SmooSeg's published checkpoints; those of its Projector and
/// PrototypePredictor alone lack the first part. STEGO's checkpoints have the projector under the same names.
inline constexpr std::string_view kSegmenterNames[][2] = {
    {"projector.linear.*", "projection.cluster1.0.*"},   {"projector.mlp.0.*", "projection.cluster2.0.*"},
    {"projector.mlp.2.*", "projection.cluster2.2.*"},    {"predictor.student", "prediction.local_clusters"},
    {"predictor.teacher", "prediction.global_clusters"},
};

}  // namespace smooseg::io::detail
